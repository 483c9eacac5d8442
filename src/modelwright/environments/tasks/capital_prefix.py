"""Capitals as a bare prefix: "The capital of France is". Any model can be asked, a base model too."""

from __future__ import annotations

from modelwright.base.schema import Problem, Score
from modelwright.data.atlas import problems as atlas
from modelwright.environments.verify import verify

NAME = "capital_prefix"
DESCRIPTION = "The capital of each country, as the continuation of a bare prefix."
MAX_TOKENS = 16
"""The answer comes first; what follows it does not count."""


def problems(seed: int, limit: int | None = None) -> list[Problem]:
    """The problems, the same for the same seed."""
    return atlas.problems(NAME, seed, limit)


def score(problem: Problem, text: str) -> Score:
    """1 if the continuation begins with the capital."""
    return verify(problem, text)
