"""The compute-optimal size read off directly: approach 2 of Hoffmann et al. (arXiv 2203.15556).

Runs that cost the same differ in how they divide it between size and data. At each cost, log loss over
log N is a parabola near its lowest point, which is the best size for that cost; a line through the best
sizes, in logarithms, gives the exponent a of N_opt ~ C**a. It assumes less than a law does, and says less.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Profile:
    """The runs of one cost."""

    flops: float
    runs: int
    best: float | None
    """N at the parabola's lowest point; None where it has none within the sizes that were run, or a
    factor of e beyond them: further out a parabola says nothing."""


@dataclass(frozen=True, slots=True)
class IsoFlop:
    """All profiles, and how the best size grows with cost."""

    profiles: tuple[Profile, ...]
    exponent: float | None
    """a in N_opt ~ C**a; None with fewer than two lowest points."""


def isoflop(levels: Sequence[float], sizes: Sequence[float], losses: Sequence[float]) -> IsoFlop:
    """Profiles of runs: the cost that each was to have (equal in a group, exactly), N and loss."""
    groups: dict[float, list[tuple[float, float]]] = defaultdict(list)
    for level, size, loss in zip(levels, sizes, losses, strict=True):
        groups[level].append((float(np.log(size)), float(np.log(loss))))
    profiles = tuple(Profile(level, len(runs), _lowest(runs)) for level, runs in sorted(groups.items()))
    found = [(profile.flops, profile.best) for profile in profiles if profile.best is not None]
    if len(found) < 2:
        return IsoFlop(profiles, None)
    costs, best = np.log(np.array(found)).T
    return IsoFlop(profiles, float(np.polyfit(costs, best, 1)[0]))


def _lowest(runs: Sequence[tuple[float, float]]) -> float | None:
    sizes, losses = np.array(runs).T
    if len(set(sizes.tolist())) < 3:
        return None
    middle = sizes.mean()
    square, slope, _ = np.polyfit(sizes - middle, losses, 2)
    if square <= 0:
        return None
    place = middle - slope / (2 * square)
    return float(np.exp(place)) if sizes.min() - 1 <= place <= sizes.max() + 1 else None
