"""A grid of coordinates (who, about what, how hard), drawn evenly; and how much of it kept rows reach.

Drawn at random, some values come twice as often as others, and what is asked of a small grid misses cells.
Here draws walk the diagonals of the grid, so that after any number of them every value of every axis was
drawn equally often, to within one, and so was every cell. The seed decides the order of the values, and
nothing else.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

Cell = Mapping[str, str]
"""Axis -> value."""


class Grid:
    """Axes and their values, in an order of the seed's."""

    def __init__(self, axes: Mapping[str, Sequence[str]], seed: int) -> None:
        """`axes`: name -> values, at least one and no two the same."""
        for name, values in axes.items():
            if not values or len(set(values)) < len(values):
                raise ValueError(
                    f"axis '{name}' needs values, each of them once, it has {list(values)!r:.200}"
                )
        draw = random.Random(seed)
        self.axes = {name: draw.sample(list(values), len(values)) for name, values in axes.items()}

    @property
    def cells(self) -> int:
        """How many there are."""
        return math.prod(map(len, self.axes.values()))

    def cell(self, draw: int) -> dict[str, str]:
        """The cell of a draw, from 0. Draws 0 to `cells` - 1 are all cells.

        The next axis goes on by one in each draw, and is set off by one more whenever it and those before
        it have come to the same place again.
        """
        made: dict[str, str] = {}
        before = 1
        for name, values in self.axes.items():
            period = math.lcm(before, len(values))
            before *= len(values)
            made[name] = values[(draw + draw % before // period) % len(values)]
        return made


class Reached(NamedTuple):
    """How evenly one axis was reached."""

    axis: str
    counts: dict[str, int]
    """Value -> rows, of all values, the most frequent first."""
    evenness: float
    """Entropy of the counts over that of equal counts: 1 is even, 0 is one value alone (or no row)."""


def reached(axes: Mapping[str, Sequence[str]], cells: Iterable[Cell]) -> tuple[list[Reached], float]:
    """For each axis, and the share of the grid's cells, that have a row."""
    rows = list(cells)
    found: list[Reached] = []
    for name, values in axes.items():
        counts = Counter(dict.fromkeys(values, 0))
        counts.update(row[name] for row in rows)
        found.append(Reached(name, dict(counts.most_common()), evenness(list(counts.values()))))
    distinct = {tuple(row[name] for name in axes) for row in rows}
    return found, len(distinct) / max(math.prod(map(len, axes.values())), 1)


def evenness(counts: Sequence[int]) -> float:
    """Pielou's index: entropy over its greatest value."""
    total = sum(counts)
    if not total:
        return 0.0
    if len(counts) < 2:
        return 1.0
    shares = [count / total for count in counts if count]
    return -sum(share * math.log(share) for share in shares) / math.log(len(counts)) + 0.0
