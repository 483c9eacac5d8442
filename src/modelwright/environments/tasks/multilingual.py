"""Capitals in seven other languages and four scripts, as a bare prefix."""

from __future__ import annotations

from modelwright.base.schema import Problem, Score
from modelwright.data.atlas import problems as atlas
from modelwright.environments.verify import verify

NAME = "multilingual"
DESCRIPTION = "Capitals in seven other languages, as the continuation of a bare prefix."
MAX_TOKENS = 24
"""The answer comes first, and other scripts take more tokens."""


def problems(seed: int, limit: int | None = None) -> list[Problem]:
    """The problems, the same for the same seed."""
    return atlas.problems(NAME, seed, limit)


def score(problem: Problem, text: str) -> Score:
    """1 if the continuation begins with the capital's name in that language."""
    return verify(problem, text)
