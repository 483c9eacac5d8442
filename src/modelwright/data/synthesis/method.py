"""What the station and its methods say to each other, round by round.

A method says what to ask, given the rows that there are so far; a writer answers; the method reads rows out
of the answers. All else is the same for every method, and the station's (stages/synthesize.py): seeds, the
journal of answers, filters, verifiers, choosing among samples, records and costs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from modelwright.base.schema import Answer, Conversation, Json, Problem, Reason, Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One answer that is wanted."""

    conversation: Conversation
    """The prompt. What its `meta` says of source, licence, jurisdiction and personal data is where it comes
    from."""
    sample: int = 0
    """Which of several answers to one conversation: each has a seed of its own."""
    sampling: Sampling | None = None
    """None: the station's. The station sets the seed either way."""
    meta: Mapping[str, Json] = field(default_factory=dict[str, Json])
    """The method's own: what it wants to know again when it reads the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A row that could be learned from, as a method reads it from an answer."""

    conversation: Conversation
    """What would be learned; the last turn is the assistant's. Its `meta` says where the row comes from, in
    the words of `data/conversations/read.py`: source, licence, jurisdiction, personal_data."""
    group: str
    """Candidates of one group are answers to the same question: votes count, and choices are made, among
    them."""
    says: str
    """What is verified: the final answer, where there is one, else the whole answer."""
    is_whole: bool = True
    """Whether the writer ended by itself, and was not cut off."""
    problem: Problem | None = None
    """What a verifier holds `says` against; None where nobody knows the right answer."""
    coordinates: Mapping[str, Json] = field(default_factory=dict[str, Json])
    """The method's own words on how the row came about, for its record."""


class Most(NamedTuple):
    """What a method asks at most, as its settings say it before anything was asked."""

    answers: int
    """Asks of all rounds."""
    letters: float
    """Of all their prompts together, about: what is not written yet counts as long as what is there."""
    rows: int
    """Rows that could come of it."""


def letters_of(prompt: Conversation) -> int:
    """Letters of all that a prompt says."""
    return sum(len(message.content) for message in prompt.messages)


class Method(Protocol):
    """A way to make rows. It may keep state between rounds, and must do the same again when it is given the
    same answers: a killed run is resumed by giving it the answers of the journal."""

    def asks(self, kept: Sequence[Candidate]) -> Sequence[Ask]:
        """The next round, given all rows that are kept so far, in their order. Nothing: it is done."""
        ...

    def read(self, ask: Ask, answer: Answer) -> Iterable[Candidate | Reason]:
        """What an answer holds: rows, and reasons for what cannot be used. Called once for each ask of the
        round, in their order, but for those that got no answer. The text is a stranger's."""
        ...
