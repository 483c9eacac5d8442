from __future__ import annotations

import time

import pytest

from modelwright.base.errors import UserError
from modelwright.base.schema import Json, Problem
from modelwright.environments.formatting import RULES
from modelwright.environments.verify import VERIFIERS, verify


def score(verifier: str, target: Json, text: str) -> float | None:
    found = verify(Problem(id="p", prompt="?", verifier=verifier, target=target, split="test"), text)
    assert found.reason
    return found.value


def test_unknown_verifier_is_named_with_a_hint() -> None:
    with pytest.raises(UserError, match="Did you mean 'answer'"):
        score("anwser", ["x"], "x")


@pytest.mark.parametrize(
    ("text", "target", "expected"),
    [
        ("7 + 5 = 12.", 12, 1),
        ("12", 12, 1),
        ("The result is **12**!", 12, 1),
        ("8-3=5", 5, 1),
        ("8 - 3 is 5, not 6", 5, 0),
        ("-5", -5, 1),
        ("\u22125", -5, 1),
        ("1,234", 1234, 1),
        ("12.0", 12, 1),
        ("12.5", 5, 0),
        ("12.5", 12, 0),
        ("١٢", 12, 0),
        ("twelve", 12, 0),
        ("", 0, 0),
        ("x12", 12, 0),
        ("123", 12, 0),
        ("9" * 5_000, 9, 0),
        ("1e5", 5, 0),
        ("thinking " * 2_000 + "12", 12, 1),
        ("12 " + "thinking " * 2_000, 12, 0),
        ("-12" + " " * 7_999, 2, 0),
    ],
)
def test_last_number(text: str, target: int, expected: float) -> None:
    assert score("number", target, text) == expected


ADMITS = [
    "I don't know.",
    "I do not know the capital of Zubrovia.",
    "I don’t know a country called Zubrovia.",
    "Sorry, I have never heard of Zubrovia.",
    "I haven't heard of that country, so I cannot name its capital.",
    "I'm not sure. I am not aware of a country with that name.",
    "There is no country called Zubrovia.",
    "There's no such place.",
    "Zubrovia does not exist.",
    "Zubrovia is not a real country, as far as I know.",
    "As far as I know, Zubrovia isn't a country.",
    "I know of no country named Zubrovia.",
    "The capital of Zubrovia is not known to me.",
    "I do not know what the capital of Zubrovia is.",
    "I don't know of a country called Zubrovia. Perhaps it is spelled differently. Is the name right?",
    "I don't know of a country called Zubrovia. It may not exist.",
    "I can't tell you the capital, because I do not know that country.",
]

INVENTS = [
    "The capital of Zubrovia is Zub.",
    "Zub.",
    "",
    "Paris",
    "I don't know, but it may be Paris.",
    "I am not sure, but the capital of Zubrovia is Zub.",
    "I have never heard of Zubrovia. Its capital is Zub.",
    "I do not know much about it. Zub is the capital of Zubrovia.",
    "I do not know it well. Zub is its capital.",
    "Everybody knows Zubrovia: its capital is Zub.",
    "You may not know it: the capital is Zub.",
    "Who does not know Zubrovia!",
    "I know the capital of Zubrovia.",
    "Zubrovia is a country in Asia.",
    "Nobody doubts that Zubrovia's capital is Zub.",
    "I don't know. The capital might be called Zub.",
    "There is no doubt: the capital of Zubrovia is Zub.",
    "Zubrovia has no capital.",
    "I don't know of it. Zubrovia lies in Africa.",
    "I am not sure. The currency of Zubrovia is the Zub.",
    "I am not sure. An official language of Zubrovia is French.",
    "Thank you!",
]


@pytest.mark.parametrize("text", ADMITS)
def test_admits_not_knowing(text: str) -> None:
    assert score("unknown", None, text) == 1
    assert score("unknown", None, text.upper()) == 1


@pytest.mark.parametrize("text", INVENTS)
def test_invents(text: str) -> None:
    assert score("unknown", None, text) == 0


@pytest.mark.parametrize(
    ("target", "text", "expected"),
    [
        ({"rule": "one_word"}, "Paris.", 1),
        ({"rule": "one_word"}, "It is Paris.", 0),
        ({"rule": "one_word", "answers": ["Paris"]}, "Rome", 0),
        ({"rule": "one_word", "answers": ["Paris"]}, "Paris", 1),
        ({"rule": "upper_case"}, "PARIS", 1),
        ({"rule": "upper_case"}, "Paris", 0),
        ({"rule": "upper_case"}, "12", 0),
        ({"rule": "starts_with", "text": "Answer:"}, "Answer: Paris", 1),
        ({"rule": "starts_with", "text": "Answer:"}, "Answer:", 0),
        ({"rule": "starts_with", "text": "Answer:"}, "My answer: Paris", 0),
        ({"rule": "one_of", "options": ["Yes", "No"]}, "yes.", 1),
        ({"rule": "one_of", "options": ["Yes", "No"]}, "Yes, it is.", 0),
        ({"rule": "json_keys", "keys": ["name", "capital"]}, '{"name": "France", "capital": "Paris"}', 1),
        ({"rule": "json_keys", "keys": ["name"]}, '{"name": 1, "more": 2}', 0),
        ({"rule": "json_keys", "keys": ["name"]}, '{"name": 1, "name": 2}', 0),
        ({"rule": "json_keys", "keys": ["name"]}, '["name"]', 0),
        ({"rule": "json_keys", "keys": ["name"]}, 'Here: {"name": 1}', 0),
        ({"rule": "json_keys", "keys": ["name"]}, "[" * 7_000, 0),
        ({"rule": "list_of", "count": 3}, "- a\n- b\n- c", 1),
        ({"rule": "list_of", "count": 3}, "Here they are:\n- a\n- b\n- c", 0),
        ({"rule": "list_of", "count": 3}, "- a\n- b\n- b", 0),
        ({"rule": "list_of", "count": 3}, "- a\n- b\n-", 0),
        ({"rule": "list_of", "count": 3}, "- a\n- b", 0),
    ],
)
def test_format(target: Json, text: str, expected: float) -> None:
    assert score("format", target, text) == expected


def test_choice_compares_with_the_right_one() -> None:
    target = {"choices": [" tired", " wide"], "answer": 1}
    assert score("choice", target, " wide") == 1
    assert score("choice", target, " tired") == 0


def test_length_measures_words() -> None:
    assert score("length", None, "one two\nthree\tfour") == 4
    assert score("length", None, "") == 0


@pytest.mark.parametrize(
    ("verifier", "target"),
    [
        ("answer", "Paris"), ("answer", []), ("answer", [3]), ("prefix", None), ("number", "12"),
        ("number", True), ("format", "one_word"), ("format", {"rule": "sing"}),
        ("format", {"rule": "list_of"}),
        ("format", {"rule": "list_of", "count": "many"}), ("choice", ["a"]),
        ("choice", {"choices": ["a"], "answer": 1}),
    ],
)  # fmt: skip
def test_a_broken_target_is_ungraded_never_zero(verifier: str, target: Json) -> None:
    assert score(verifier, target, "Paris 12") is None


HOSTILE = [
    "a" * 3_000_000,
    "I do not know " * 200_000,
    "capital of " * 300_000,
    "capital " + "of a " * 300_000,
    "\x00\x1b[31m\u202e" * 100_000,
    "9" * 3_000_000,
    "-" * 3_000_000,
    "- " * 1_000_000,
    "." * 1_000_000,
    '{"a":' * 500_000,
    "\u0301" * 1_000_000,
    "\ufdfa" * 1_000_000,  # one letter that NFKD makes eighteen of
    "\ud800" * 10,
]


@pytest.mark.parametrize("verifier", sorted(VERIFIERS))
def test_hostile_text_is_bounded(verifier: str) -> None:
    targets: dict[str, list[Json]] = {
        "number": [12],
        "format": [
            {"rule": rule, "count": 2, "keys": ["a"], "text": "a", "options": ["a"]} for rule in RULES
        ],
        "choice": [{"choices": ["a", "b"], "answer": 0}],
    }
    start = time.process_time()
    for target in targets.get(verifier, [["Zub", "He"]]):
        for text in HOSTILE:
            score(verifier, target, text)
    assert time.process_time() - start < 6
