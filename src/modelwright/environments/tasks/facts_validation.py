"""facts_anew with other phrasings: those by which settings and training phrasings may be chosen."""

from __future__ import annotations

from modelwright.base.schema import Problem, Score
from modelwright.data.atlas import problems as atlas
from modelwright.environments.fact_answers import score_fact

NAME = "facts_validation"
FOR_DEVELOPMENT = True
DESCRIPTION = "As facts_anew, in the phrasings by which settings may be chosen."


def problems(seed: int, limit: int | None = None) -> list[Problem]:
    """The problems, the same for the same seed."""
    return atlas.problems(NAME, seed, limit)


def score(problem: Problem, text: str) -> Score:
    """1 if the answer names a right answer and no list of others."""
    return score_fact(problem, text)
