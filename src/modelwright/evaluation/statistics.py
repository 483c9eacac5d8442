"""How sure are we? Intervals for every score, and paired tests for every claim of "better".

Two models answer the same problems, so they are compared problem by problem: an unpaired test would
throw away what the problems have in common and miss real changes (Miller 2024, arXiv 2411.00640).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

import numpy

from modelwright.base import intervals

EXACT_FLIPS = 14
"""Up to this many non-zero differences all 2^n sign patterns are counted; above it, a sample is."""

RANDOM_FLIPS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean and the range that holds the true mean with the confidence that was asked for."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}] n={self.n}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """after - before on the same problems: its interval, and how likely it is by chance alone."""

    mean: float
    low: float
    high: float
    n: int
    p_value: float
    test: str
    """"exact McNemar" for right/wrong scores, "sign flips" for other numbers."""
    gained: int
    """Problems whose score rose: wrong to right, where scores are 0 or 1."""
    lost: int
    """Problems whose score fell: the harm that an average hides."""


@dataclass(frozen=True, slots=True)
class Scores:
    """A model on held-out units: the loss summed over each, and its size in bytes, tokens or pairs."""

    losses: tuple[float, ...]
    sizes: tuple[float, ...]

    @property
    def value(self) -> float:
        """Loss per byte, token or pair over all units together."""
        return sum(self.losses) / sum(self.sizes)

    def half(self, which: int) -> Scores:
        """Every other unit, from the first (0) or the second (1) on."""
        return Scores(self.losses[which::2], self.sizes[which::2])

    def contributions(self) -> list[float]:
        """One number a unit; their mean is `value`, so that a long text weighs what it holds."""
        scale = len(self.sizes) / sum(self.sizes)
        return [loss * scale for loss in self.losses]

    def against(self, before: Scores, confidence: float) -> Difference:
        """This model's loss less that of `before` on the same units: below 0 is better."""
        return paired_difference(before.contributions(), self.contributions(), confidence)


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """The mean of `values` with its interval.

    0/1 scores get Wilson's interval (`base.intervals`), other numbers Student's t interval.
    Measurements that are not scores (words, nats) take `t_interval`, even if all happen to be 0 or 1.
    """
    numbers = _checked(values, confidence)
    if _binary(numbers):
        return wilson(int(sum(numbers)), len(numbers), confidence)
    return t_interval(numbers, confidence)


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval for a share of `successes` in `n` trials."""
    low, high = intervals.wilson(successes, n, confidence)
    return Interval(mean=successes / n, low=low, high=high, n=n)


def paired_difference(
    before: Sequence[float], after: Sequence[float], confidence: float = 0.95, seed: int = 0
) -> Difference:
    """Compare two models on the same problems; `before[i]` and `after[i]` are scores of problem i.

    Right/wrong scores: exact McNemar test, interval of Agresti and Min (2005, Statistics in Medicine
    24: "simple improved confidence intervals for comparing matched proportions"). Other numbers: a
    sign-flip permutation test (no shape is assumed), Student's t interval of the differences.
    """
    if len(before) != len(after) or not before:
        raise ValueError(f"A paired test needs equal, non-empty lists; got {len(before)} and {len(after)}.")
    differences = [float(b) - float(a) for a, b in zip(before, after, strict=True)]
    gained, lost = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    if _binary([*before, *after]):
        low, high = _agresti_min(gained, lost, len(differences), confidence)
        p_value, test = mcnemar(gained, lost), "exact McNemar"
    else:
        interval = t_interval(differences, confidence)
        low, high = interval.low, interval.high
        p_value, test = sign_flips(differences, seed), "sign flips"
    return Difference(
        mean=fmean(differences), low=low, high=high, n=len(differences),
        p_value=p_value, test=test, gained=gained, lost=lost,
    )  # fmt: skip


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided exact p-value: if changes were coin flips, how often would they be this one-sided?"""
    total = gained + lost
    tail = sum(math.comb(total, k) for k in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / 2**total)


def sign_flips(differences: Sequence[float], seed: int = 0) -> float:
    """Two-sided permutation p-value of "the differences are as likely to be negative as positive".

    Exact for few differences; else estimated from random patterns, counting the one observed, so
    that it is never 0 (Phipson and Smyth 2010).
    """
    moved = numpy.array([d for d in differences if d != 0], dtype=numpy.float64)
    if not len(moved):
        return 1.0
    observed = abs(moved.sum()) * (1 - 1e-12)  # the sums are compared across rounding orders
    if len(moved) <= EXACT_FLIPS:
        patterns = numpy.arange(2 ** len(moved))[:, None] >> numpy.arange(len(moved)) & 1
        return float(numpy.mean(numpy.abs((2 * patterns - 1) @ moved) >= observed))
    extreme = 0
    generator = numpy.random.default_rng(seed)
    for _ in range(20):  # in slices: 20,000 patterns of 10,000 differences at once would be 1.6 GB
        signs = generator.integers(0, 2, size=(RANDOM_FLIPS // 20, len(moved)), dtype=numpy.int8) * 2 - 1
        extreme += int((numpy.abs(signs @ moved) >= observed).sum())
    return (extreme + 1) / (RANDOM_FLIPS + 1)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's correction (1979): with twenty suites one will look "better" at 0.05 by luck."""
    adjusted: dict[str, float] = {}
    highest = 0.0
    for rank, (name, p_value) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        highest = max(highest, min(1.0, p_value * (len(p_values) - rank)))
        adjusted[name] = highest
    return {name: adjusted[name] for name in p_values}


def t_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Student's t interval. One number alone says nothing about its spread: it gets an infinite one."""
    numbers = _checked(values, confidence)
    mean = fmean(numbers)
    if len(numbers) == 1:
        return Interval(mean=mean, low=-math.inf, high=math.inf, n=1)
    half = t_quantile(0.5 + confidence / 2, len(numbers) - 1) * stdev(numbers) / math.sqrt(len(numbers))
    return Interval(mean=mean, low=mean - half, high=mean + half, n=len(numbers))


def _agresti_min(gained: int, lost: int, n: int, confidence: float) -> tuple[float, float]:
    """Half a problem is added to each of the four cells of the table, so 0 flips is not certainty."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    centre = (gained - lost) / (n + 2)
    half = z * math.sqrt(gained + lost + 1 - (gained - lost) ** 2 / (n + 2)) / (n + 2)
    return max(-1.0, centre - half), min(1.0, centre + half)


def t_quantile(probability: float, degrees: int) -> float:
    """The point below which Student's t lies with `probability` (0.5 < probability < 1)."""
    z = NormalDist().inv_cdf(probability)
    if degrees > 200:  # Abramowitz and Stegun 26.7.5, two terms: off by less than 1e-6 here
        return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
    low, high = 0.0, 1e7
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_within(middle, degrees) < 2 * probability - 1 else (low, middle)
    return (low + high) / 2


def _t_within(t: float, degrees: int) -> float:
    """P(|T| < t) as the finite series for whole degrees of freedom (Abramowitz and Stegun 26.7.3-4)."""
    angle = math.atan(t / math.sqrt(degrees))
    odd = degrees % 2 == 1
    term = math.cos(angle) if odd else 1.0
    series = 0.0 if degrees == 1 else term
    for k in range(3 if odd else 2, degrees - 1, 2):
        term *= math.cos(angle) ** 2 * (k - 1) / k
        series += term
    total = math.sin(angle) * series
    return 2 / math.pi * (angle + total) if odd else total


def _binary(numbers: Sequence[float]) -> bool:
    return all(number in (0, 1) for number in numbers)


def _checked(values: Sequence[float], confidence: float) -> list[float]:
    if not values:
        raise ValueError("An interval was asked for with no values: an average of nothing has no meaning.")
    if not 0 < confidence < 1:
        raise ValueError(f"Confidence must lie between 0 and 1, got {confidence}; 0.95 is usual.")
    return [float(value) for value in values]
