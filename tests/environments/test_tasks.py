from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from modelwright.base.errors import UserError
from modelwright.base.schema import Problem
from modelwright.data.atlas import answers
from modelwright.data.atlas import problems as atlas
from modelwright.data.atlas.facts import Fact, facts
from modelwright.data.atlas.questions import known_facts
from modelwright.data.atlas.world import load_world
from modelwright.environments import tasks
from modelwright.environments.environment import SingleTurn
from modelwright.environments.fact_answers import score_fact
from modelwright.environments.task import all_tasks, higher_is_better, select, unit_of

TASKS = all_tasks()


def gold(problem: Problem) -> str:
    """An answer that is right by construction."""
    match problem.verifier:
        case "answer":
            return str(problem.target[0])
        case "prefix":
            return f" {problem.target[0]}. And so on."
        case "number":
            return f"The result is {problem.target}."
        case "unknown":
            return answers.UNKNOWN
        case "format":
            return str(problem.meta["gold"])
        case "choice":
            return str(problem.target["choices"][problem.target["answer"]])
    return "one two three"


def about(fact: Fact) -> Problem:
    meta = {"relation": fact.relation, "subject": fact.subject}
    return Problem(
        id=fact.subject, prompt="?", verifier="answer", target=list(fact.answers), split="test", meta=meta
    )


def test_every_suite_of_the_atlas_is_a_task() -> None:
    assert set(TASKS) - {"chains"} == set(atlas.SUITES), "sums in steps are no part of the atlas"


def test_tasks_for_development_are_asked_only_by_name() -> None:
    assert set(TASKS) - set(select(())) == {"chains", "facts_validation", "invented_validation"}
    assert list(select(("facts_validation",))) == ["facts_validation"]


@pytest.mark.parametrize("name", TASKS)
def test_gold_scores_one_and_silence_nothing(name: str) -> None:
    task = TASKS[name]
    problems = task.problems(1)
    assert problems
    assert task.DESCRIPTION.endswith(".") and unit_of(task) in ("share", "words")
    for problem in problems:
        right, nothing = task.score(problem, gold(problem)), task.score(problem, "")
        expected = 3 if problem.verifier == "length" else 1
        assert right.value == expected, (problem, gold(problem), right)
        assert nothing.value == 0, (problem, nothing)


@pytest.mark.parametrize("name", TASKS)
def test_ids_are_unique_and_a_limit_takes_the_first(name: str) -> None:
    task = TASKS[name]
    few, many = task.problems(5, 10), task.problems(5, 30)
    assert [problem.id for problem in few] == [problem.id for problem in many[:10]]
    assert len({problem.id for problem in many}) == len(many)


@pytest.mark.parametrize("name", [name for name in TASKS if name.startswith(("facts", "capitals"))])
def test_a_list_of_everything_and_an_echo_score_nothing(name: str) -> None:
    task = TASKS[name]
    problems = task.problems(1, 300)
    relations = {problem.meta["relation"] for problem in problems}
    every = {
        relation: list(dict.fromkeys(fact.answer for fact in facts(load_world(), relation)))
        for relation in relations
    }
    for problem in problems:
        answers_there = every[problem.meta["relation"]]
        if len(answers_there) > 2 and len(answers_there[0]) > 2:  # symbols are too short to be counted
            cheat = task.score(problem, ", ".join(answers_there))
            assert cheat.value == 0, (problem, cheat)
    echoes = [task.score(problem, problem.prompt[-1].content).value for problem in problems]
    assert sum(value == 1 for value in echoes) <= 0.05 * len(echoes)  # "the capital of Djibouti"


@pytest.mark.parametrize("style", ["verbose", "rude", "polite"])
def test_true_answers_of_every_style_are_right(style: str) -> None:
    dice = Random(4)
    for fact in known_facts():
        text = getattr(answers, style)(fact, dice)
        score = score_fact(about(fact), text)
        assert score.value == 1, (fact, text, score)


def test_false_answers_are_wrong() -> None:
    dice = Random(4)
    for fact in known_facts():
        text = answers.wrong(fact, dice)
        score = score_fact(about(fact), text)
        assert score.value == 0, (fact, text, score)


def test_an_answer_that_the_subject_holds_can_be_given() -> None:
    fact = next(f for f in facts(load_world(), "capital") if f.subject == "Djibouti")
    assert score_fact(about(fact), "The capital of Djibouti is Djibouti.").value == 1
    assert score_fact(about(fact), "The capital of Djibouti is Luanda.").value == 0


def test_inventions_and_admissions_in_our_own_words() -> None:
    dice = Random(2)
    task = TASKS["invented_countries"]
    for problem in task.problems(3, 200):
        country = problem.meta["country"]
        assert task.score(problem, answers.unknown_verbose(dice)).value == 1
        assert task.score(problem, answers.invented("capital", country, dice)).value == 0


def test_measures_are_no_marks() -> None:
    assert higher_is_better(TASKS["answer_length"]) is None
    assert higher_is_better(TASKS["arithmetic"]) is True


def test_unknown_task_is_named_with_a_hint() -> None:
    assert list(select(("arithmetic",))) == ["arithmetic"]
    with pytest.raises(UserError, match="Did you mean 'arithmetic'"):
        select(("arithmetik",))


TASK_FILE = """
from modelwright.base.schema import Problem
from modelwright.environments.verify import verify

NAME = "{name}"
DESCRIPTION = "What a stranger added."

def problems(seed, limit=None):
    return [Problem(id="greet", prompt="Say hello.", verifier="answer", target=["hello"], split="test")]

def score(problem, text):
    return verify(problem, text)
"""


@pytest.fixture
def dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A second folder of tasks: what a file added to the first would be."""
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(tmp_path)])
    yield tmp_path
    for file in tmp_path.glob("*.py"):
        sys.modules.pop(f"{tasks.__name__}.{file.stem}", None)
        if hasattr(tasks, file.stem):
            delattr(tasks, file.stem)


def test_a_task_is_added_by_adding_one_file(dropped: Path) -> None:
    (dropped / "greeting.py").write_text(TASK_FILE.format(name="greeting"), encoding="utf-8")
    task = all_tasks()["greeting"]
    (problem,) = task.problems(0)
    assert task.score(problem, "Hello, you.").value == 1


def test_a_task_file_without_its_parts_or_with_a_taken_name_is_refused(dropped: Path) -> None:
    (dropped / "zz_taken.py").write_text(TASK_FILE.format(name="arithmetic"), encoding="utf-8")
    with pytest.raises(UserError, match=r"zz_taken.py: the name 'arithmetic' is taken"):
        all_tasks()
    (dropped / "half.py").write_text("NAME = 'half'", encoding="utf-8")
    with pytest.raises(UserError, match=r"half.py lacks DESCRIPTION, problems, score"):
        all_tasks()


def test_the_environment_is_for_one_attempt() -> None:
    task = TASKS["arithmetic"]
    problem = task.problems(1, 1)[0]
    environment = SingleTurn(task)
    with pytest.raises(RuntimeError):
        environment.step("5")
    assert environment.open(problem) == problem.prompt[-1].content
    assert environment.score().value is None
    assert environment.step(str(problem.target)) == ("", True)
    assert environment.score().value == 1
    with pytest.raises(RuntimeError):
        environment.step("again")
    with pytest.raises(RuntimeError):
        environment.open(problem)


@pytest.mark.parametrize(
    ("relation", "subject", "text", "right"),
    [
        ("capital_of", "Nairobi", "Kuwait City is the capital of Kenya.", False),
        ("capital_of", "Nairobi", "I am glad that you ask. Nairobi is the capital of Kenya.", True),
        ("capital_of", "Nairobi", "Kenya.", True),
        ("capital_of", "Nairobi", "It is the capital city of Kenya.", True),
        ("continent", "Kenya", "It is a country in Africa.", True),
        ("continent", "Kenya", "Africa. The continent of Uganda is Africa too.", True),
        ("continent", "Kenya", "The continent of Uganda is Africa.", False),
        ("capital", "Kenya", "The capital of Kenya, in East Africa, is Nairobi.", True),
        ("element_of_symbol", "Sb", "The chemical symbol S stands for antimony.", False),
        ("element_of_symbol", "Sb", "The chemical symbol Sb stands for antimony.", True),
        ("capital", "Kenya", "The capital of Uganda is Nairobi.", False),
        ("neighbour", "France", "A neighbour of Germany is Belgium.", False),
        ("neighbour", "France", "Belgium, for instance.", True),
    ],
)
def test_a_right_answer_told_of_another_subject_does_not_count(
    relation: str, subject: str, text: str, right: bool
) -> None:
    fact = next(fact for fact in facts(load_world(), relation) if fact.subject == subject)
    assert score_fact(about(fact), text).value == right
