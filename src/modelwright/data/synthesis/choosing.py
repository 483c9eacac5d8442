"""Which of several answers to one question are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeVar

from modelwright.base.schema import Reason, Score

Keep = Literal["first", "best", "all"]
"""first: the first that passed; best: the one with the highest score, the first of several; all: every one
that says something else."""

NOT_CHOSEN = "another answer of its group"
SAME = "the same answer again"

T = TypeVar("T")


def choose(
    groups: Sequence[str], texts: Sequence[str], scores: Sequence[Score], keep: Keep
) -> list[Reason | None]:
    """For each candidate None, or why another one of its group is kept in its place.

    `groups`, `texts` and `scores` are of the candidates that passed, in their order.
    """
    members: dict[str, list[int]] = {}
    for place, group in enumerate(groups):
        members.setdefault(group, []).append(place)
    found: list[Reason | None] = [None] * len(groups)
    for places in members.values():
        for place, reason in _of_group(places, texts, scores, keep).items():
            found[place] = reason
    return found


def _of_group(
    places: Sequence[int], texts: Sequence[str], scores: Sequence[Score], keep: Keep
) -> Mapping[int, Reason]:
    if keep == "all":
        first: dict[str, int] = {}
        for place in places:
            first.setdefault(" ".join(texts[place].split()), place)
        kept = {*first.values()}
        return {place: Reason(SAME) for place in places if place not in kept}
    chosen = places[0] if keep == "first" else max(places, key=lambda place: _value(scores[place]))
    return {place: Reason(NOT_CHOSEN, says=f"kept is the {keep}") for place in places if place != chosen}


def _value(score: Score) -> float:
    return score.value if score.value is not None else float("-inf")
