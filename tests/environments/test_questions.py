"""Rows of one's own as a task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from modelwright.base.errors import DamagedFile, UserError
from modelwright.data.conversations.sides import conversations_from
from modelwright.data.readers.source import Source
from modelwright.environments.questions import OwnTask, Questions
from modelwright.environments.task import max_tokens_of


def task(tmp_path: Path, *rows: Any, **settings: Any) -> OwnTask:
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return OwnTask(Questions.model_validate({"path": str(path), **settings}))


PUP = {"question": "What is a young otter?", "answers": ["A pup.", "A kit."]}
SEVERAL = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}]
TALK = [*SEVERAL, {"role": "user", "content": "Bye?"}, {"role": "assistant", "content": "Bye."}]


@pytest.mark.parametrize(
    ("row", "verifier", "right", "wrong"),
    [
        (PUP, "answer", "It is called a PUP!", "a puppy"),
        (PUP, "answer", "a kit", "kitten"),
        (PUP, "prefix", " A kit. And so on", "It is a pup"),
        ({"question": "Why?", "rationale": "Since.", "answer": "Blue."}, "answer", "blue", "Since."),
        ({"question": "How many?", "answer": "3 + 4 = 7\n#### 7"}, "number", "7.", "7, not 8"),
        ({"question": "How much?", "answer": "-1,250.5"}, "number", "It is \u22121250.50", "1250.5"),
        ({"instruction": "Add.", "input": "1, 2", "output": "3"}, "number", "3", "12"),
        ({"messages": TALK}, "answer", "Bye, then", "Hello."),
    ],
)
def test_what_a_row_says_is_right(tmp_path: Path, row: Any, verifier: str, right: str, wrong: str) -> None:
    made = task(tmp_path, row, verifier=verifier)
    (problem,) = made.problems(1)
    assert made.NAME == "mine" and f"checked by '{verifier}'" in made.DESCRIPTION
    assert isinstance(problem.prompt, str) == (verifier == "prefix")
    found = [made.score(problem, text).value for text in (right, wrong, "")]
    assert found == [1.0, 0.0, 0.0]


def test_all_that_was_said_before_the_last_answer_is_asked(tmp_path: Path) -> None:
    (problem,) = task(tmp_path, {"messages": TALK}).problems(1)
    assert [message.content for message in problem.prompt] == ["Hi?", "Hello.", "Bye?"]  # type: ignore[union-attr]


def test_the_questions_are_the_same_for_a_seed_and_have_names_of_their_own(tmp_path: Path) -> None:
    made = task(tmp_path, *[PUP] * 30, max_tokens=7)
    drawn = [[problem.id for problem in made.problems(seed, 10)] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2] and len(set(drawn[0])) == 10
    assert len(made.problems(1)) == len(made.problems(1, 99)) == 30
    assert max_tokens_of(made, 64) == 7 and max_tokens_of(task(tmp_path, PUP), 64) == 64


def test_what_finetune_holds_out_can_be_asked_alone(tmp_path: Path) -> None:
    rows = [{"question": f"What is {n}?", "answer": f"{n}"} for n in range(200)]
    made = task(tmp_path, *rows, rows="held out")
    asked = {problem.prompt[0].content for problem in made.problems(1)}  # type: ignore[union-attr]
    source = Source(path=str(tmp_path / "mine.jsonl"))
    learned = {each.messages[0].content for each in conversations_from([source], 1, 999, "train")}
    assert asked and asked | learned == {row["question"] for row in rows} and not asked & learned
    with pytest.raises(UserError, match=r"no question to ask \(no rows; held out is one question in 20\)"):
        task(tmp_path, PUP, rows="held out")


@pytest.mark.parametrize(
    ("row", "settings", "words"),
    [
        ({"question": "How many?", "answer": "some"}, {"verifier": "number"}, "ends in no plain number"),
        ({"question": "How much?", "answer": "3/4"}, {"verifier": "number"}, "ends in no plain number"),
        ({"question": "How much?", "answer": "1e3"}, {"verifier": "number"}, "ends in no plain number"),
        ({"messages": SEVERAL[1:]}, {}, "there is nothing to ask"),
        ({"messages": TALK}, {"verifier": "prefix"}, "3 turns stand before the answer"),
        ({"question": "Hi?", "answers": [""]}, {}, "answers is empty"),
    ],
)
def test_a_row_that_cannot_be_asked_is_named_or_left_out(
    tmp_path: Path, row: Any, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(DamagedFile, match=rf"mine\.jsonl, line 1: .*{words}"):
        task(tmp_path, row, **settings)
    with pytest.raises(UserError, match="no question to ask"):
        task(tmp_path, row, **settings, on_error="skip")


def test_names_that_no_file_could_have_are_refused() -> None:
    for name in ("../up", "a/b", " ", "a" * 200):
        with pytest.raises(ValidationError, match="name of letters"):
            Questions.model_validate({"path": "x.csv", "name": name})
    assert Questions.model_validate("some/held_out.csv.gz").name == "held_out"


@given(st.text(max_size=300))
def test_no_text_of_a_model_breaks_the_check(text: str) -> None:
    verdicts = {
        OwnTask.score(None, problem, text).value  # type: ignore[arg-type]
        for problem in PROBLEMS
    }
    assert verdicts <= {0.0, 1.0}


@pytest.fixture(autouse=True, scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("rows")
    number = {"question": "How many?", "answer": "7"}
    for verifier, row in (("answer", PUP), ("prefix", PUP), ("number", number)):
        PROBLEMS.extend(task(folder, row, verifier=verifier).problems(1))


PROBLEMS: list[Any] = []
