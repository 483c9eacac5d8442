"""Rationales: what an answer holds is read strictly, and rows are what the student shall say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelwright.base.schema import Answer, Conversation, Message, Reason, Score
from modelwright.data.synthesis.answers import AnswersConfig, instructed
from modelwright.data.synthesis.choosing import choose
from modelwright.data.synthesis.method import Candidate
from modelwright.data.synthesis.rationales import Parsed, RationalesConfig, parse
from modelwright.data.synthesis.record import joined
from modelwright.data.synthesis.tasks import last_question, tasks_of
from modelwright.stages.synthesis_methods import method_of


def talk(*turns: tuple[str, str]) -> Conversation:
    return Conversation(messages=tuple(Message(role=role, content=said) for role, said in turns))  # type: ignore[arg-type]


ASKED = talk(("system", "Be kind."), ("user", "2 + 2?"), ("assistant", "4"))


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (Answer(text="Two and two.\nAnswer: 4"), Parsed("Two and two.", "4")),
        (Answer(text="An answer: maybe 3. No.\n\n**Answer:** $4$ "), Parsed("An answer: maybe 3. No.", "4")),
        (Answer(text="Hm.\nANSWER: \\boxed{4}"), Parsed("Hm.", "4")),
        (Answer(text="<think>Two, two.</think>\nAnswer: 4"), Parsed("Two, two.", "4")),
        (Answer(text="Answer: 4", reasoning="Two, two."), Parsed("Two, two.", "4")),
        (Answer(text="So.\nAnswer: 4", reasoning="Hm."), Parsed("Hm.\n\nSo.", "4")),
        (Answer(text="It is 4."), "no final answer"),
        (Answer(text="It is.\nAnswer:  \n"), "no final answer"),
        (Answer(text="It is.\nAnswer: " + "x" * 5000), "no final answer"),
        (Answer(text="Answer: 4"), "no rationale"),
    ],
)
def test_a_rationale_and_a_final_answer(answer: Answer, found: Parsed | str) -> None:
    read = parse(answer, "Answer:")
    assert (read.rule if isinstance(read, Reason) else read) == found


@given(st.text(), st.text())
def test_any_text_is_parsed_or_refused(text: str, reasoning: str) -> None:
    read = parse(Answer(text=text, reasoning=reasoning), "Answer:")
    assert isinstance(read, Reason) or (read.rationale and read.final)


def test_the_letters_of_a_marker_may_change_length_in_other_cases() -> None:
    """The small form of some letters is longer: places in it are not those of the text."""
    read = parse(Answer(text="ẞİ" * 20 + " so\nAnswer: 42"), "Answer:")
    assert isinstance(read, Parsed) and read.final == "42"


@pytest.mark.parametrize(("learn", "ways"), [("both", 2), ("rationale", 1), ("answer", 1)])
def test_rows_hold_what_is_to_be_learned(learn: str, ways: int) -> None:
    config = RationalesConfig.model_validate({"learn": learn})
    method = method_of(config, tasks_of([ASKED]), 1, 0)
    (ask,) = method.asks(())
    assert ask.conversation.messages[0].content.startswith("Be kind.\n\nReason step by step")
    assert not method.asks(()), "one round"
    rows = [
        each for each in method.read(ask, Answer(text="2 and 2.\nAnswer: 4")) if isinstance(each, Candidate)
    ]
    assert len(rows) == ways == len({row.group for row in rows}) and {row.says for row in rows} == {"4"}
    said = {str(row.coordinates["learned"]): row.conversation.messages[-1].content for row in rows}
    assert said == {
        way: text
        for way, text in {"rationale": "2 and 2.\n\nAnswer: 4", "answer": "4"}.items()
        if learn in (way, "both")
    }
    first = [row.conversation.messages[0].content for row in rows]
    assert (first == ["Be kind."]) == (learn != "both")


@pytest.mark.parametrize("config", [AnswersConfig(), RationalesConfig()])
def test_what_is_cut_or_empty_is_no_row(config: AnswersConfig | RationalesConfig) -> None:
    method = method_of(config, tasks_of([ASKED]), 1, 0)
    (ask,) = method.asks(())
    rules = [
        [each.rule for each in method.read(ask, answer) if isinstance(each, Reason)]
        for answer in (
            Answer(text="So.\nAnswer: 4", finish_reason="length"),
            Answer(reasoning="So many", finish_reason="length"),
            Answer(text=" ", reasoning="So."),
        )
    ]
    assert rules == [["cut short"], ["cut short"], ["empty answer"]]


def test_answers_stand_behind_the_prompt_as_it_was() -> None:
    method = method_of(AnswersConfig(system="Be brief."), tasks_of([ASKED, ASKED]), 2, 0)
    asks = method.asks(())
    assert [ask.sample for ask in asks] == [0, 1], "equal prompts are one"
    assert "Be brief." in asks[0].conversation.messages[0].content
    (row,) = method.read(asks[0], Answer(text=" Four. ", finish_reason="stop"))
    assert isinstance(row, Candidate) and row.is_whole
    assert (
        row.conversation.messages
        == talk(("system", "Be kind."), ("user", "2 + 2?"), ("assistant", "Four.")).messages
    )


def test_the_last_answer_is_not_shown() -> None:
    whole = talk(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    asked, reference = last_question(whole)
    assert [turn.content for turn in asked.messages] == ["a", "b", "c"] and reference == "d"
    assert last_question(asked) == (asked, "")
    assert tasks_of([talk(("assistant", "hello"))]) == []
    assert instructed(asked, "") is asked


def test_choices_among_a_group() -> None:
    groups, texts = ["a", "a", "b", "a"], ["x  y", "x y", "x y", "z"]
    scores = [Score(value=value, reason="") for value in (0.5, 0.9, 0.1, 0.9)]
    kept = {
        keep: [place for place, why in enumerate(choose(groups, texts, scores, keep)) if why is None]  # type: ignore[arg-type]
        for keep in ("first", "best", "all")
    }
    assert kept == {"first": [0, 2], "best": [1, 2], "all": [0, 2, 3]}


@pytest.mark.parametrize(
    ("origin", "writer", "both"),
    [("MIT", "MIT", "MIT"), ("MIT", "unknown", "MIT AND unknown"), ("A OR B", "C", "(A OR B) AND C")],
)
def test_a_row_has_the_terms_of_its_prompt_and_of_its_writer(origin: str, writer: str, both: str) -> None:
    assert joined(origin, writer) == both
