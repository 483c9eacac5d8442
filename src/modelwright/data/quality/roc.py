"""How well scores tell two kinds of text apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Whether a score of 0.8 means 80 % good: one bin of scores."""

    low: float
    high: float
    count: int
    mean_score: float
    share_good: float


def auc(good: Sequence[float] | Floats, ordinary: Sequence[float] | Floats) -> float:
    """The chance that a good text scores above an ordinary one, ties counting half (Mann-Whitney)."""
    scores = np.concatenate([good, ordinary])
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    n, m = len(good), len(ordinary)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def auc_interval(good: Floats, ordinary: Floats, seed: int, draws: int = 500) -> tuple[float, float]:
    """The 95 % bootstrap interval of the AUC: texts of each kind drawn anew with replacement."""
    random = np.random.default_rng(seed)
    drawn = [
        auc(random.choice(good, len(good)), random.choice(ordinary, len(ordinary))) for _ in range(draws)
    ]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


def roc(good: Floats, ordinary: Floats) -> list[tuple[float, float, float]]:
    """(threshold, share of ordinary at or above it, share of good), from (inf, 0, 0) to the lowest score;
    a point for each score that there is."""
    thresholds = np.unique(np.concatenate([good, ordinary]))[::-1]
    passed = [1 - np.searchsorted(np.sort(side), thresholds) / len(side) for side in (ordinary, good)]
    points = zip(thresholds.tolist(), passed[0].tolist(), passed[1].tolist(), strict=True)
    return [(float("inf"), 0.0, 0.0), *points]


def calibration(good: Floats, ordinary: Floats, bins: int = 10) -> list[Calibration]:
    """Bins of equal width over scores from 0 to 1; empty ones are left out."""
    scores = np.concatenate([good, ordinary])
    is_good = np.arange(len(scores)) < len(good)
    place = np.minimum((scores * bins).astype(np.int64), bins - 1)
    return [
        Calibration(
            low=index / bins,
            high=(index + 1) / bins,
            count=int(inside.sum()),
            mean_score=float(scores[inside].mean()),
            share_good=float(is_good[inside].mean()),
        )
        for index in range(bins)
        if (inside := place == index).any()
    ]
