"""Instructions about the form of an answer; whether it is true is not asked here."""

from __future__ import annotations

from modelwright.base.schema import Problem, Score
from modelwright.data.atlas import problems as atlas
from modelwright.environments.verify import verify

NAME = "instruction_format"
DESCRIPTION = "Answers in the form that was asked for: one word, JSON, a list, ..."


def problems(seed: int, limit: int | None = None) -> list[Problem]:
    """The problems, the same for the same seed."""
    return atlas.problems(NAME, seed, limit)


def score(problem: Problem, text: str) -> Score:
    """1 if the answer has the form."""
    return verify(problem, text)
