"""What a model is asked for requests, and which of them are taken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelwright.base.errors import UserError
from modelwright.base.schema import Reason
from modelwright.data.decontaminate.index import Index
from modelwright.data.synthesis.growth import GrowConfig, growth_prompt
from modelwright.data.synthesis.quoting import bare, quoted, tagged
from modelwright.data.synthesis.requests import RequestRules, Requests, read_request
from modelwright.data.synthesis.rewriting import (
    SAME_ANSWER,
    RewriteConfig,
    Way,
    eliminated,
    rewriting_prompt,
)

SEEDS = [
    f"Name {number} things that are {word}."
    for number, word in enumerate(["red", "blue", "old", "new", "big", "odd", "wet", "dry"])
]


def rule_of(reason: Reason | None) -> str:
    return reason.rule if reason else ""


def test_requests_are_taken_once(exam: Index, exam_question: str) -> None:
    requests = Requests(RequestRules(), SEEDS, exam)
    told = {
        "Explain how a tidal mill works.": "",
        "Explain how a tidal mill works!": "request: like an earlier one",
        "Name 4 things that are big.": "request: like an earlier one",  # a seed
        "Why so?": "request: too short",
        "word " * 151: "request: too long",
        "Draw a map of the coast.": "request: needs more than text",
        "...": "request: empty",
        exam_question: "request: in an evaluation set",
        "解释一下潮汐磨坊的工作原理": "",  # no spaces between words: not short
    }
    assert {text: rule_of(requests.admit(text)) for text in told} == told


def test_without_words_beyond_text_all_are_taken() -> None:
    assert Requests(RequestRules(beyond_text=())).admit("Draw a map of the coast.") is None


def test_a_growth_prompt_shows_some_of_each_and_is_the_same_again() -> None:
    config, grown = GrowConfig(shown_seeds=3, shown_grown=2), ["Grown one.", "Grown two.", "Grown three."]
    prompts = [growth_prompt(config, SEEDS, grown, number, 7) for number in (0, 0, 1)]
    asked = prompts[0].prompt.messages[-1].content
    assert prompts[0] == prompts[1] != prompts[2]
    assert sum(text in asked for text in SEEDS) == 3
    assert sum(text in asked for text in grown) == 2
    assert "5. " in asked and "6. " not in asked
    with pytest.raises(UserError, match="none of 1 seed tasks"):
        growth_prompt(config, ["x" * 2000], [], 0, 7)


@given(st.text(max_size=200), st.integers(0, 9))
def test_a_quoted_text_cannot_end_itself(text: str, seed: int) -> None:
    first, *inner, last = quoted("answer", text, seed).split("\n")
    nonce = first.removeprefix("[answer ").removesuffix("]")
    assert last == f"[end of answer {nonce}]"
    assert "\n".join(inner) == text
    assert nonce not in text
    assert quoted("answer", quoted("answer", text, seed), seed).split("\n")[0] != first


@pytest.mark.parametrize(
    ("text", "inner"),
    [
        ("Well: <request> Do it. </request> Done.", "Do it."),
        ("<request>Do", None),
        ("</request> x <request>", None),
    ],
)
def test_tags(text: str, inner: str | None) -> None:
    assert tagged(text, "request") == inner


@pytest.mark.parametrize(
    ("text", "without"),
    [
        ("Sure! Here is the request:\n\nName a bird.", "Name a bird."),
        ("Translate the following:\nGuten Tag", "Translate the following:\nGuten Tag"),
        ('"Name a bird."', "Name a bird."),
        ('"Yes" and "no"', '"Yes" and "no"'),
        ("**Name a bird.**", "Name a bird."),
    ],
)
def test_what_models_put_around_a_text(text: str, without: str) -> None:
    assert bare(text) == without


@pytest.mark.parametrize(
    ("text", "is_whole", "read"),
    [
        ("<request>Name a bird.</request>", False, "Name a bird."),
        ("Name a bird.", True, "Name a bird."),
        ("Name a bird that", False, "request: cut short"),
        ("<request>Name a bird that", True, "request: cut short"),
        ("<request>The given request asks for a bird.</request>", True, "request: echo of the prompt"),
        ("[request 0123456789abcdef] Name a bird.", True, "request: echo of the prompt"),
        ("<request> </request>", True, "request: empty"),
    ],
)
def test_a_rewritten_request_is_read(text: str, is_whole: bool, read: str) -> None:
    found = read_request(text, is_whole)
    assert (found if isinstance(found, str) else found.rule) == read


BEFORE = "A farmer has 12 cows and sells 5. How many are left?"


@pytest.mark.parametrize(
    ("way", "after", "rule"),
    [
        ("constrain", BEFORE, "request: nothing gained"),
        ("clean", BEFORE, ""),
        ("paraphrase", "Of the 12 cows that a farmer keeps, 5 go. What number stays?", ""),
        (
            "paraphrase",
            "Of the 12 cows that a farmer keeps, 7 go. What number stays?",
            "request: another one",
        ),
        ("reason", "A farmer has 12 cows, sells 5, and each other one has 2 calves. How many are there?", ""),
        ("deepen", BEFORE + " more" * 61, "request: too much added"),
        ("broaden", "Explain crop rotation." + " more" * 61, ""),
    ],
)
def test_what_is_no_rewriting_is_eliminated(way: Way, after: str, rule: str) -> None:
    assert rule_of(eliminated(BEFORE, after, way, RewriteConfig())) == rule


def test_a_rewriting_prompt_quotes_the_request() -> None:
    asked = rewriting_prompt(BEFORE, "reason", 3)
    assert quoted("request", BEFORE, 3) in asked.messages[-1].content
    assert asked.messages[0].role == "system"
    assert {"paraphrase", "clean"} == SAME_ANSWER
