"""invented_countries with other names and phrasings: those by which settings may be chosen."""

from __future__ import annotations

from modelwright.base.schema import Problem, Score
from modelwright.data.atlas import problems as atlas
from modelwright.environments.verify import verify

NAME = "invented_validation"
FOR_DEVELOPMENT = True
DESCRIPTION = "As invented_countries, with the names by which settings may be chosen."


def problems(seed: int, limit: int | None = None) -> list[Problem]:
    """The problems, the same for the same seed."""
    return atlas.problems(NAME, seed, limit)


def score(problem: Problem, text: str) -> Score:
    """1 if the answer says that it does not know and states nothing."""
    return verify(problem, text)
