"""The part of facts_anew that asks from the other end: who learned "A is B" need not know that B is A
(arXiv 2309.12288)."""

from __future__ import annotations

from modelwright.base.schema import Problem, Score
from modelwright.data.atlas import problems as atlas
from modelwright.environments.fact_answers import score_fact

NAME = "facts_reversed"
DESCRIPTION = "The part of facts_anew that asks from the other end: whose capital is Paris, for instance."


def problems(seed: int, limit: int | None = None) -> list[Problem]:
    """The problems, the same for the same seed."""
    return atlas.problems(NAME, seed, limit)


def score(problem: Problem, text: str) -> Score:
    """1 if the answer names a right answer and no list of others."""
    return score_fact(problem, text)
