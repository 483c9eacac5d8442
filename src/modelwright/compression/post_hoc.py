"""Averages of a width that nobody kept, out of a few that somebody did (arXiv 2312.02696, section 3.2).

An average is a profile: how much each moment of the run weighs in it. Of a power-function average of
exponent g after t updates, what came before the moment s weighs (s / t)^(g + 1). Snapshots of two such
averages along a run are many profiles, and the sum of multiples of them that comes closest to a wanted
profile, by least squares, is taken of the weights themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

CELLS = 4096
"""Stretches into which a run is cut: exact up to as many updates."""


def coefficients(stored: Sequence[tuple[int, float]], wanted: tuple[int, float]) -> tuple[np.ndarray, float]:
    """How much of each stored average gives the wanted one, and the part of its profile that is missed (the
    distance over its length). Averages are (updates, exponent g); coefficients add up to 1.

    Least squares on the profiles themselves rather than on their products, as the paper does, whose
    condition is the square of this one's.
    """
    end = max(updates for updates, _ in (*stored, wanted))
    edges = np.linspace(0.0, end, min(end, CELLS) + 1)
    profiles = np.stack([profile(edges, *average) for average in stored], axis=1)
    goal = profile(edges, *wanted)
    found = np.linalg.lstsq(profiles, goal, rcond=None)[0]
    found = found / found.sum()
    return found, float(np.linalg.norm(profiles @ found - goal) / np.linalg.norm(goal))


def profile(edges: np.ndarray, updates: int, exponent: float) -> np.ndarray:
    """(cells,) weight of each stretch of a run in a power-function average; they add up to 1."""
    return np.diff(np.clip(edges / updates, 0.0, 1.0) ** (exponent + 1))
