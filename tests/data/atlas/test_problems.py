from __future__ import annotations

import json
import re
from collections import Counter

import pytest

from modelwright.base.errors import UserError
from modelwright.base.schema import Message, Problem
from modelwright.data.atlas.facts import RELATIONS, facts, prefix, statement
from modelwright.data.atlas.invented import imaginary_countries
from modelwright.data.atlas.problems import SUITES, problems
from modelwright.data.atlas.questions import ask, is_held_out, phrasings
from modelwright.data.atlas.skills import result_of
from modelwright.data.atlas.splits import operands_split
from modelwright.data.atlas.world import LANGUAGES, load_world

WORLD = load_world()
FACTS = {(fact.relation, fact.subject): fact for fact in facts(WORLD)}
BARE = {"capital_prefix", "coreference", "multilingual"}


def question(problem: Problem) -> str:
    assert not isinstance(problem.prompt, str)
    assert [message.role for message in problem.prompt] == ["user"]
    return problem.prompt[0].content


@pytest.mark.parametrize("suite", SUITES)
def test_suites_are_sound_and_the_same_each_time(suite: str) -> None:
    everything = problems(suite, 0)
    assert len(everything) >= 60
    assert len({problem.id for problem in everything}) == len(everything)
    assert problems(suite, 0, 50) == everything[:50]
    assert [p.id for p in problems(suite, 1, 50)] != [p.id for p in everything[:50]]
    for problem in everything:
        assert problem.id.startswith(f"{suite}/")
        assert problem.split == ("validation" if suite.endswith("_validation") else "test")
        assert isinstance(problem.prompt, str) == (suite in BARE)
        assert json.loads(json.dumps(problem.target)) == problem.target
        assert json.loads(json.dumps(problem.meta)) == problem.meta


def test_an_unknown_suite_is_a_clear_error() -> None:
    with pytest.raises(UserError, match="Did you mean 'facts_anew'"):
        problems("facts_new", 0)


@pytest.mark.parametrize(
    "suite", ["facts_seen", "facts_anew", "facts_validation", "facts_held_out", "capitals_anew"]
)
def test_questions_about_facts_have_the_right_answers(suite: str) -> None:
    part = {"facts_seen": "train", "facts_validation": "validation"}.get(suite, "test")
    for problem in problems(suite, 0):
        fact = FACTS[problem.meta["relation"], problem.meta["subject"]]
        assert is_held_out(fact) == (suite == "facts_held_out")
        assert problem.verifier == "answer"
        assert problem.target == list(fact.answers)
        assert fact.answer in statement(fact)
        assert question(problem) in {ask(template, fact) for template in phrasings(fact.relation, part)}


def test_a_limit_takes_an_even_sample() -> None:
    everything = Counter(problem.meta["relation"] for problem in problems("facts_anew", 0))
    sample = Counter(problem.meta["relation"] for problem in problems("facts_anew", 0, 400))
    total = sum(everything.values())
    for relation in RELATIONS:
        assert abs(sample[relation] - 400 * everything[relation] / total) <= 1.5


def test_all_countries_are_completed_from_the_bare_prefix() -> None:
    found = problems("capital_prefix", 0)
    assert len(found) == len(WORLD.countries)
    for problem in found:
        fact = FACTS["capital", problem.meta["subject"]]
        assert problem.prompt == prefix(fact)
        assert problem.target == list(fact.answers)


def test_invented_countries_are_kept_for_tests() -> None:
    found = problems("invented_countries", 0)
    assert {problem.meta["country"] for problem in found} == set(imaginary_countries())
    assert {problem.target for problem in found} == {None}
    assert all(problem.meta["country"] in question(problem) for problem in found)
    assert Counter(problem.meta["phrasing"] for problem in found) == {"training": 75, "held out": 75}


def test_calculations_are_kept_for_tests_and_right() -> None:
    signs = {"plus": "+", "minus": "-", "times": "*"}
    for problem in problems("arithmetic", 0):
        match = re.search(r"(\d+) (\S+) (\d+)", question(problem))
        assert match is not None
        sign = signs.get(match[2], match[2])
        assert operands_split(sign, int(match[1]), int(match[3])) == "test"
        assert problem.target == result_of(sign, int(match[1]), int(match[3]))


def test_coreference_names_both_and_is_balanced() -> None:
    found = problems("coreference", 0)
    first = 0
    for problem in found:
        assert isinstance(problem.prompt, str)
        choices, answer = problem.target["choices"], problem.target["answer"]
        assert len(set(choices)) == 2
        assert all(f"{choice} " in problem.prompt for choice in choices)
        told_first = min(choices, key=problem.prompt.index)
        first += choices[answer] == told_first
    assert 0.35 < first / len(found) < 0.65
    assert 0.35 < sum(problem.target["answer"] for problem in found) / len(found) < 0.65


def test_capitals_are_asked_in_every_language() -> None:
    found = problems("multilingual", 0)
    assert Counter(p.meta["language"] for p in found) == dict.fromkeys(LANGUAGES, len(WORLD.countries))
    france = next(p for p in found if (p.meta["language"], p.meta["subject"]) == ("ru", "France"))
    assert france.prompt == "Страна: Франция. Столица:"
    assert france.target == ["Париж"]


def test_answer_length_is_measured_on_trained_facts() -> None:
    for problem in problems("answer_length", 0, 100):
        assert (problem.verifier, problem.target) == ("length", None)
        assert problem.prompt[0] == Message(role="user", content=question(problem))
