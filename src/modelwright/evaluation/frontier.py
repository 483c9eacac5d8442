"""What one way of training costs against another for the same accuracy, with intervals.

Each way has been tried with several amounts of data and several seeds, and all answered the same problems.
What is uncertain is which seeds were drawn and which problems; both are drawn anew, with replacement, for all
ways at once (a paired bootstrap over two factors), so that what they have in common cancels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 2000
"""Resamples; intervals are their percentiles."""

Marks = Mapping[int, np.ndarray]
"""Amount of data -> (seeds, problems) marks of one way, 0 or 1."""


@dataclass(frozen=True, slots=True)
class Saving:
    """What a way saves of the cost of another at the accuracy that the other comes to."""

    share: float
    """1 - its cost / the other's; below 0 it costs more; -inf where it never comes there."""
    low: float
    high: float
    reached: float
    """In which share of the resamples it comes to that accuracy at all."""
    bound: bool
    """It is there with the least data that was tried, so it may save more."""


class Resampled:
    """Accuracies by seeds and problems that are drawn anew, the same for all ways."""

    def __init__(
        self, seeds: int, problems: int, confidence: float, seed: int = 0, draws: int = DRAWS
    ) -> None:
        if seeds < 2 or problems < 2:
            raise ValueError(f"expected at least 2 seeds and 2 problems, got {seeds} and {problems}")
        random = np.random.default_rng(seed)
        self._ends = (1 - confidence) / 2, (1 + confidence) / 2
        self._seeds = _counts(random, draws, seeds)
        self._problems = _counts(random, draws, problems)

    def accuracies(self, marks: np.ndarray) -> np.ndarray:
        """(draws,) mean mark in each resample of (seeds, problems) marks."""
        weighed = np.einsum("ds,sp,dp->d", self._seeds, marks, self._problems, optimize=True)
        return weighed / marks.size

    def interval(self, values: np.ndarray) -> tuple[float, float]:
        """The percentiles that hold the share which was asked for."""
        low, high = np.quantile(values, self._ends, method="inverted_cdf")
        return float(low), float(high)

    def difference(self, before: np.ndarray, after: np.ndarray) -> tuple[float, float, float]:
        """(mean, low, high) of what marks rise by, problem by problem and seed by seed."""
        low, high = self.interval(self.accuracies(after - before))
        return float((after - before).mean()), low, high

    def saving(
        self,
        marks: Marks,
        costs: Mapping[int, float],
        other: Marks,
        other_costs: Mapping[int, float],
        at: int,
    ) -> Saving:
        """What `marks` saves at the accuracy of `other` with `at` problems. Costs are by amount of data."""
        amounts = sorted(marks)
        price = [costs[amount] for amount in amounts]
        curves = np.stack([self.accuracies(marks[amount]) for amount in amounts], 1)
        targets = self.accuracies(other[at])
        paid = [cost_of(curve, price, target) for curve, target in zip(curves, targets, strict=True)]
        saved = 1 - np.array(paid) / other_costs[at]
        means, target = [float(marks[amount].mean()) for amount in amounts], float(other[at].mean())
        share = 1 - cost_of(means, price, target) / other_costs[at]
        reached = float(np.isfinite(saved).mean())
        return Saving(share, *self.interval(saved), reached, bool(means[0] >= target))


def cost_of(accuracies: Sequence[float] | np.ndarray, costs: Sequence[float], target: float) -> float:
    """What it costs to come to `target`: where the curve first passes it, straight between its points over
    the logarithm of the cost. The first point's cost where that is enough, inf where none is."""
    if accuracies[0] >= target:
        return costs[0]
    for place in range(1, len(costs)):
        before, here = float(accuracies[place - 1]), float(accuracies[place])
        if here >= target:
            if here == target or min(costs[place - 1], costs[place]) <= 0:
                return costs[place]
            part = (target - before) / (here - before)
            return math.exp((1 - part) * math.log(costs[place - 1]) + part * math.log(costs[place]))
    return math.inf


def _counts(random: np.random.Generator, draws: int, units: int) -> np.ndarray:
    """(draws, units) how often each unit comes in each resample."""
    return random.multinomial(units, np.full(units, 1 / units), size=draws).astype(float)
