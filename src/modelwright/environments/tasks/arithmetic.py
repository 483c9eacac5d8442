"""Sums, differences and products that no training text holds."""

from __future__ import annotations

from modelwright.base.schema import Problem, Score
from modelwright.data.atlas import problems as atlas
from modelwright.environments.verify import verify

NAME = "arithmetic"
DESCRIPTION = "Sums, differences and products of small numbers, none seen in training."


def problems(seed: int, limit: int | None = None) -> list[Problem]:
    """The problems, the same for the same seed."""
    return atlas.problems(NAME, seed, limit)


def score(problem: Problem, text: str) -> Score:
    """1 if the last number is the result."""
    return verify(problem, text)
