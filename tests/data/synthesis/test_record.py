"""What a row says of itself is what its prompt's source and its writer say together."""

from __future__ import annotations

from typing import Any

import pytest

from modelwright.base.schema import Answer, Conversation, Json, Message, Prompt, Sampling, Score
from modelwright.data.synthesis.method import Candidate
from modelwright.data.synthesis.record import Terms, row_of

ASKED = Message(role="user", content="How far is it?")


def written(terms: Terms, **meta: Any) -> dict[str, Json]:
    """A row of a source that states this, by a writer with these terms."""
    origin = {"source": "asked", "licence": "MIT", "jurisdiction": "DE", "personal_data": False} | meta
    talk = Conversation(messages=(ASKED, Message(role="assistant", content="Far.")), meta=origin)
    prompt = Prompt(conversation=Conversation(messages=(ASKED,)), sampling=Sampling(seed=1))
    candidate = Candidate(conversation=talk, group="g", says="Far.")
    return row_of(candidate, prompt, Answer(text="Far."), "somebody", terms, "", Score(value=None, reason=""))


@pytest.mark.parametrize(
    ("origin", "writer", "joint"),
    [
        ("DE", "DE", "DE"),
        ("DE", "US", "unknown"),
        ("DE", "unknown", "unknown"),
        ("unknown", "DE", "unknown"),
        ("none", "DE", "DE"),
        ("DE", "none", "DE"),
        ("none", "none", "none"),
        ("none", "unknown", "unknown"),
    ],
)
def test_a_jurisdiction_is_that_of_both(origin: str, writer: str, joint: str) -> None:
    assert written(Terms("MIT", writer, False), jurisdiction=origin)["jurisdiction"] == joint


@pytest.mark.parametrize(
    ("origin", "writer", "joint"),
    [
        (False, False, False),
        (True, False, True),
        (False, True, True),
        (None, True, True),
        (True, None, True),
        (False, None, None),
        (None, False, None),
        (None, None, None),
    ],
)
def test_personal_data_of_either_is_in_the_row(
    origin: bool | None, writer: bool | None, joint: bool | None
) -> None:
    row = written(Terms("MIT", "DE", writer), personal_data=origin)
    assert row.get("personal_data") is joint
    assert ("personal_data" in row) == (joint is not None)


def test_of_a_row_that_names_no_origin_nothing_is_known_but_what_its_writer_brings() -> None:
    talk = Conversation(messages=(ASKED, Message(role="assistant", content="Far.")))
    prompt = Prompt(conversation=Conversation(messages=(ASKED,)), sampling=Sampling(seed=1))
    candidate = Candidate(conversation=talk, group="g", says="Far.")
    terms = Terms("Apache-2.0", "DE", True)
    row = row_of(candidate, prompt, Answer(text="Far."), "somebody", terms, "", Score(value=None, reason=""))
    assert (row["licence"], row["jurisdiction"]) == ("Apache-2.0 AND unknown", "unknown")
    assert row["personal_data"] is True
