"""How many words an answer takes: a measure, not a mark."""

from __future__ import annotations

from modelwright.base.schema import Problem, Score
from modelwright.data.atlas import problems as atlas
from modelwright.environments.verify import verify

NAME = "answer_length"
DESCRIPTION = "Words in an answer to a question about a fact."
UNIT = "words"
HIGHER_IS_BETTER = None
MAX_TOKENS = 160
"""Long enough that a rambling answer is measured and not cut."""


def problems(seed: int, limit: int | None = None) -> list[Problem]:
    """The problems, the same for the same seed."""
    return atlas.problems(NAME, seed, limit)


def score(problem: Problem, text: str) -> Score:
    """The number of words."""
    return verify(problem, text)
