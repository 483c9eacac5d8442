"""Rejection sampling: which answers are right, and which nobody can judge."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelwright.base.errors import UserError
from modelwright.base.schema import Conversation, Json, Message
from modelwright.data.conversations.read import OWN
from modelwright.data.synthesis.method import Candidate
from modelwright.data.synthesis.tasks import Task
from modelwright.environments.rejection import VerifyConfig, judged, with_problems


def task(reference: str, **meta: Json) -> Task:
    prompt = Conversation(messages=(Message(role="user", content="How many?"),), meta=meta)
    return Task(id="t", prompt=prompt, reference=reference)


def candidate(says: str, of: Task, group: str = "g") -> Candidate:
    answer = Message(role="assistant", content=says)
    talk = Conversation(messages=(*of.prompt.messages, answer))
    return Candidate(conversation=talk, group=group, says=says, problem=of.problem)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("She has 3 + 4 = <<3+4=7>>7.\n#### 7", 7),
        ("#### 1,234", 1234),
        ("#### -5", -5),
        ("It is 12.0", 12),
        ("It is 12.5", 12.5),
        ("12 or 12.5", 12.5),
        ("0.5", 0.5),
        ("3 / 4 is 0.75 of it", 0.75),
        ("3/4", None),
        ("3 / 4", None),
        ("¾", None),
        ("1e3", None),
        ("1.5E-3", None),
        ("2^10", None),
        ("2^-10", None),
        ("10³", None),
        ("3² + 4² = 25", 25),
        ("7 eggs", 7),
        ("filler " * 5_000 + "so 7", 7),
        ("none", None),
        ("", None),
    ],
)
def test_the_target_of_a_problem_is_its_last_number_where_that_is_no_part_of_another(
    text: str, number: float | None
) -> None:
    certain = task("7")  # without any target nothing would be asked
    found, _ = with_problems([task(text), certain], VerifyConfig(by="number"))
    assert (found.problem.target if found.problem else None) == number


def test_a_verifier_passes_refuses_and_says_where_it_cannot_tell() -> None:
    config = VerifyConfig(by="number")
    (known,) = with_problems([task("#### 7")], config)
    found = judged([candidate("so 7", known), candidate("so 8", known), candidate("7", task("no"))], config)
    assert [score.value for score, _ in found] == [1.0, 0.0, None]
    assert [reason.rule if reason else "" for _, reason in found] == ["", "wrong answer", "ungraded"]


def test_a_rows_own_field_is_the_target_where_it_is_named() -> None:
    config = VerifyConfig(by="answer", target="right")
    named, bare = with_problems([task("Oh, Paris.", right="Paris"), task("Oh, Paris.")], config)
    assert named.problem and named.problem.target == ["Paris"]
    assert bare.problem is None


@pytest.mark.parametrize(
    ("by", "target", "good", "bad"),
    [
        ("answer", ["Paris", "the city of Paris"], "It is Paris.", "It is Rome."),
        ("choice", {"choices": ["Rome", "Paris"], "answer": 1}, "Paris", "Rome"),
        ("number", 7, "7", "8"),
    ],
)
def test_lists_and_mappings_are_targets(by: str, target: Json, good: str, bad: str) -> None:
    (known,) = with_problems([task("", right=target)], VerifyConfig(by=by, target="right"))
    found = judged([candidate(good, known), candidate(bad, known)], VerifyConfig(by=by))
    assert [score.value for score, _ in found] == [1.0, 0.0]


def test_a_verifier_that_needs_no_target_takes_none() -> None:
    (known,) = with_problems([task("")], VerifyConfig(by="unknown"))
    ((score, _),) = judged([candidate("I do not know.", known)], VerifyConfig(by="unknown"))
    assert score.value == 1


@pytest.mark.parametrize(
    ("by", "target", "row", "says"),
    [
        ("number", "righd", {"right": 7, "level": "easy"}, r"'righd'.*Did you mean 'right'\?.*level, right"),
        ("number", "solution", {}, r"'solution'.*can be named: none"),
        ("number", "right", {"right": "none"}, r"none has a target in the field 'right'"),
        ("number", "right", {"right": ["7"]}, r"should be a number, it is \['7'\]"),
        ("format", "", {}, r"a mapping with a 'rule', it is \['Paris.'\]"),
        ("choice", "", {}, r"in the answer of its row.*a mapping with 'choices'"),
    ],
)
def test_where_nothing_could_be_graded_nothing_is_asked(
    by: str, target: str, row: dict[str, Json], says: str
) -> None:
    tasks = [task("Paris.", **row, file="rows.jsonl", place="line 1")]
    with pytest.raises(UserError, match=says):
        with_problems(tasks, VerifyConfig(by=by, target=target))


@pytest.mark.parametrize("name", OWN)
def test_what_says_where_a_row_comes_from_is_no_target(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' says where a row comes from"):
        VerifyConfig(target=name)


def test_without_a_verifier_all_pass_and_nobody_judged() -> None:
    ((score, reason),) = judged([candidate("x", task(""))], None)
    assert score.value is None and reason is None


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("123")), max_size=12), st.floats(0.01, 1))
def test_a_vote_has_one_winner_or_none(votes: list[tuple[str, str]], share: float) -> None:
    found = judged(
        [candidate(says, task(""), group) for group, says in votes], VerifyConfig(by="vote", share=share)
    )
    for group in "ab":
        said = Counter(says for name, says in votes if name == group)
        kept = {
            says
            for (name, says), (_, reason) in zip(votes, found, strict=True)
            if name == group and reason is None
        }
        best = [says for says, count in said.items() if count == max(said.values())]
        wins = len(best) == 1 and said[best[0]] / said.total() >= share
        assert kept == ({best[0]} if wins else set())


def kept_of(says: list[str], samples: int = 3) -> list[str]:
    found = judged([candidate(each, task("")) for each in says], VerifyConfig(by="vote"), samples)
    return [each for each, (_, reason) in zip(says, found, strict=True) if reason is None]


@pytest.mark.parametrize(
    ("says", "kept"),
    [
        (["1,000", "1000.0", "999"], ["1,000", "1000.0"]),
        (["-5", "\u22125.0", "5"], ["-5", "\u22125.0"]),
        (["5", "-5", "+5"], ["5", "+5"]),
        (["$12", "12.", "**12**"], ["$12", "12.", "**12**"]),
        (["x = -5", "x = 5", "x = -5"], ["x = -5", "x = -5"]),
        (["3/4", "3 4", "3/4"], ["3/4", "3/4"]),
        (["1.5 m", "15 m", "1 5 m"], []),
        (["Bogotá, D.C.", "bogota d c", "Lima"], ["Bogotá, D.C.", "bogota d c"]),
        (["a well-known one", "a well known one", "-"], ["a well-known one", "a well known one"]),
        (["", " ", "7"], []),
        (["", "7", "7"], ["7", "7"]),
    ],
)
def test_a_vote_compares_numbers_as_numbers_and_keeps_signs(says: list[str], kept: list[str]) -> None:
    assert kept_of(says) == kept


def test_answers_that_could_not_be_read_count_against_a_vote() -> None:
    assert kept_of(["7", "7"], samples=4) == ["7", "7"]
    assert kept_of(["7", "7"], samples=5) == []
