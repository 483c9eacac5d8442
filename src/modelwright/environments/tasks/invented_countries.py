"""Countries that do not exist: the only right answer is "I don't know"."""

from __future__ import annotations

from modelwright.base.schema import Problem, Score
from modelwright.data.atlas import problems as atlas
from modelwright.environments.verify import verify

NAME = "invented_countries"
DESCRIPTION = "Answers that admit not to know a country that does not exist; all others invent."


def problems(seed: int, limit: int | None = None) -> list[Problem]:
    """The problems, the same for the same seed."""
    return atlas.problems(NAME, seed, limit)


def score(problem: Problem, text: str) -> Score:
    """1 if the answer says that it does not know and states nothing."""
    return verify(problem, text)
