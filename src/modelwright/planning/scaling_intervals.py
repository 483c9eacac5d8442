"""How sure a scaling law is: bootstrap intervals, and a forecast that the next run can refute.

What is resampled: the residuals of the runs. Each replicate is the whole ladder once more, every run at
its own size and horizon, with the fitted loss times a residual drawn from all runs, and is fitted anew.
Drawing the runs themselves would leave sizes out of a small ladder, and the law without a hold. Residuals
are drawn with a random sign (they need no centring then). The five smallest are left out: with Huber's
sharp corner a law of five parameters all but passes through five runs, and these zeros say nothing about
noise (with them, fewer than 80 of 100 intervals of alpha held). And they are widened by
sqrt((n - 5) / chi2), since the size of the noise is known from n - 5 degrees of freedom only: without it
twelve runs give intervals that are far too narrow. (Davison and Hinkley 1997, Bootstrap Methods, chapter
6; the factor is what makes Student's t of a normal.)

The interval of a forecast also holds the noise of the one run that will be made. It does not hold what
no run shows: another recipe, or a law that bends beyond the ladder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from modelwright.planning.scaling import Array, Fit, Law, minimize

REPLICATES = 400
"""The 5 % point of 400 draws has between 3 % and 7 % below it."""
OTHER_STARTS = 3
"""Besides the fit itself: a replicate's minimum is near, but not always in the same valley."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A value and where it lies with the confidence asked for."""

    value: float
    low: float
    high: float

    def holds(self, measured: float) -> bool:
        """Whether `measured` is inside."""
        return self.low <= measured <= self.high


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """Replicates of a fit."""

    fit: Fit
    theta: Array
    """(R, 5) parameters of each replicate, as `minimize` has them."""
    log_losses: Array
    """(R, n) what each was fitted to."""
    noise: Array
    """(R,) log noise of one further run in each."""

    def interval(self, quantity: Callable[[Law], float], confidence: float = 0.9) -> Interval:
        """Percentile interval of anything that follows from the law: `lambda law: law.alpha`."""
        values = np.array([quantity(self.fit.design.law(row)) for row in self.theta])
        low, high = _quantiles(values, confidence)
        return Interval(quantity(self.fit.law), low, high)

    def forecast(self, parameters: float, tokens: float, confidence: float = 0.9) -> Interval:
        """Prediction interval for the loss of one run of N parameters on D tokens."""
        logs = self.fit.design.predict(self.theta, parameters, tokens) + self.noise
        low, high = _quantiles(np.exp(logs), confidence)
        return Interval(self.fit.law.loss(parameters, tokens), low, high)


def bootstrap(fit: Fit, seed: int, replicates: int = REPLICATES) -> Bootstrap:
    """Fit `replicates` ladders that could have come out instead of this one."""
    random = np.random.default_rng(seed)
    runs = len(fit.residuals)
    noise = _draw(random, fit.residuals, replicates, runs + 1)
    log_losses = fit.design.predicted(fit.theta[None]) + noise[:, :runs]
    starts = np.concatenate((fit.theta[None], _spread_starts(fit, random)))
    rows = np.repeat(log_losses, len(starts), axis=0)
    found, sums = minimize(fit.design, rows, np.tile(starts, (replicates, 1)), (fit.delta,), tolerance=1e-5)
    best = sums.reshape(replicates, -1).argmin(1)
    theta = found.reshape(replicates, len(starts), 5)[np.arange(replicates), best]
    return Bootstrap(fit, theta, log_losses, noise[:, runs])


def _draw(random: np.random.Generator, residuals: Array, replicates: int, count: int) -> Array:
    """(R, count) residuals drawn with a random sign, widened as the head of this file says."""
    telling = residuals[np.abs(residuals).argsort()[5:]]
    drawn = random.choice(telling, (replicates, count)) * random.choice((-1.0, 1.0), (replicates, count))
    freedom = len(telling)
    return drawn * np.sqrt(freedom / random.chisquare(freedom, replicates))[:, None]


def _spread_starts(fit: Fit, random: np.random.Generator) -> Array:
    """(S, 5) starts about the fit."""
    return fit.theta + random.normal(0, (0.4, 0.4, 0.2, 0.4, 0.4), (OTHER_STARTS, 5))


def _quantiles(values: Array, confidence: float) -> tuple[float, float]:
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, (tail, 1 - tail))
    return float(low), float(high)


def seed_spread(groups: Sequence[Sequence[float]]) -> float | None:
    """Standard deviation of log loss between runs that differ by their seed alone; None without repeats."""
    logs = [np.log(group) for group in groups if len(group) > 1]
    if not logs:
        return None
    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in logs)
    return math.sqrt(squares / sum(len(group) - 1 for group in logs))
