"""What "it" is, in sentences that differ by their reason. Decided by likelihood; guessing gives one half."""

from __future__ import annotations

from modelwright.base.schema import Problem, Score
from modelwright.data.atlas import problems as atlas
from modelwright.environments.verify import verify

NAME = "coreference"
DESCRIPTION = "What 'it' stands for, chosen by likelihood from two; chance is 50 %."


def problems(seed: int, limit: int | None = None) -> list[Problem]:
    """The problems, the same for the same seed."""
    return atlas.problems(NAME, seed, limit)


def score(problem: Problem, text: str) -> Score:
    """1 if the likelier choice is the right one."""
    return verify(problem, text)
