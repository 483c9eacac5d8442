"""One question and its answers: what conversations and preference pairs are made of."""

from __future__ import annotations

from dataclasses import dataclass

from modelwright.data.atlas.facts import Fact


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A user's turn and two true answers to it: to the point, and with padding around it."""

    kind: str
    question: str
    concise: str
    verbose: str
    facts: tuple[Fact, ...] = ()
    """What was asked for; the verbose answer may state more."""
    invented: str | None = None
    """The country that does not exist, if one was asked about."""
