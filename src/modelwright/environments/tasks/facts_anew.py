"""Facts asked for in phrasings that no training text holds: knowledge rather than memory of a question."""

from __future__ import annotations

from modelwright.base.schema import Problem, Score
from modelwright.data.atlas import problems as atlas
from modelwright.environments.fact_answers import score_fact

NAME = "facts_anew"
DESCRIPTION = "Facts that fine-tuning asked for, in phrasings never seen."


def problems(seed: int, limit: int | None = None) -> list[Problem]:
    """The problems, the same for the same seed."""
    return atlas.problems(NAME, seed, limit)


def score(problem: Problem, text: str) -> Score:
    """1 if the answer names a right answer and no list of others."""
    return score_fact(problem, text)
