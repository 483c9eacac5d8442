"""Mixing: which source each row of training comes from, fixed before training begins.

Shares are met evenly all along the run, not only at its end, and by counting, not by chance: after any
number of rows each source is within about one row of its share. A source is read once in a shuffled
order, then again in another, and never more often than `max_epochs` allows: what would be repeated more,
or left out, is refused or said before any work.

Temperature follows the multilingual practice of sampling with exponent 1/T (arXiv 1911.02116): 1 keeps
the sizes of the sources, larger values even them out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from modelwright.base.config import Config
from modelwright.base.errors import ConfigError, did_you_mean

Weights = dict[str, float]
MAX_EPOCHS = 4.0
"""Up to here repeated text is nearly as good as new text (arXiv 2305.16264)."""


class Phase(Config):
    """A part of a curriculum."""

    until: float = Field(gt=0, le=1)
    """Where it ends, as a share of the run."""
    weights: Weights
    """As `Mix.weights`."""


class Mix(Config):
    """How much of training each source gives."""

    weights: Weights = {}
    """Source name or pattern -> share: {atlas: 3, "web-*": 1}. Sources that share a pattern are one group.
    Shares need not add up to 1. Every source must be named; 0 leaves one out."""
    temperature: float = Field(default=1.0, ge=1.0, le=100.0)
    """Without weights: shares as the sizes of the sources to the power 1/temperature."""
    schedule: tuple[Phase, ...] = ()
    """A curriculum: weights that change over the run, phase by phase; the last one ends at 1."""
    max_epochs: float | dict[str, float] = MAX_EPOCHS
    """How often a source, or each group by its name, may be read at most."""

    @model_validator(mode="after")
    def _phases_in_order(self) -> Mix:
        ends = [phase.until for phase in self.schedule]
        if ends and (ends != sorted(set(ends)) or ends[-1] != 1.0):
            raise ValueError(f"mix.schedule: 'until' must rise and end at 1.0, it is {ends}")
        if self.schedule and self.weights:
            raise ValueError("mix: give weights or a schedule of weights, not both")
        for weights in (self.weights, *(phase.weights for phase in self.schedule)):
            if weights and (min(weights.values()) < 0 or sum(weights.values()) <= 0):
                raise ValueError(f"mix: weights must not be negative, and one must be above 0: {weights}")
        return self


@dataclass(frozen=True, slots=True)
class Group:
    """Sources that are mixed as one, and what becomes of them."""

    name: str
    sources: tuple[str, ...]
    tokens: int
    rows: int
    """Rows of training that come from it."""
    epochs: float
    """How often it is read."""


@dataclass(frozen=True, slots=True)
class MixPlan:
    """The groups, and for each row of training the number of its group."""

    groups: tuple[Group, ...]
    choice: NDArray[np.int16]


def plan(mix: Mix, tokens: Mapping[str, int], rows: int, row_tokens: int) -> MixPlan:
    """Source -> tokens, and the rows that training will read -> which group each row comes from.

    Raises `ConfigError` for sources without a weight, weights without a source, and too many repeats.
    """
    phases = _phases(mix) or (Phase(until=1.0, weights=_by_temperature(tokens, mix.temperature)),)
    members = _members(phases, tokens)
    names = list(members)
    choices: list[NDArray[np.int16]] = []
    start = 0
    for phase in phases:
        end = round(rows * phase.until)
        shares = np.array([phase.weights.get(name, 0.0) for name in names])
        choices.append(interleave(shares, end - start))
        start = end
    choice = np.concatenate(choices)
    counts = np.bincount(choice, minlength=len(names))
    sizes = {name: sum(tokens[source] for source in members[name]) for name in names}
    groups = [
        Group(name, members[name], sizes[name], int(count), int(count) * row_tokens / max(1, sizes[name]))
        for name, count in zip(names, counts, strict=True)
    ]
    _refuse_repeats(mix, groups)
    return MixPlan(tuple(groups), choice)


def interleave(shares: NDArray[np.float64], rows: int) -> NDArray[np.int16]:
    """(rows,) group numbers, each group spread evenly: its k-th row is (k + 1/2) / count of the run."""
    exact = shares / shares.sum() * rows
    counts = np.floor(exact).astype(np.int64)
    short = rows - int(counts.sum())
    counts[np.argsort(-(exact - counts), kind="stable")[:short]] += 1
    places = np.concatenate([(np.arange(n) + 0.5) / n for n in counts] or [np.empty(0)])
    numbers = np.repeat(np.arange(len(shares), dtype=np.int16), counts)
    return numbers[np.argsort(places, kind="stable")]


def check_names(mix: Mix, sources: Collection[str]) -> None:
    """Raise `ConfigError` for those of `sources` without a weight, and for weights of none of them."""
    if phases := _phases(mix):
        _members(phases, sources)


def _phases(mix: Mix) -> tuple[Phase, ...]:
    """The parts of the run whose weights the settings name; none where the sizes of the sources decide."""
    return mix.schedule or ((Phase(until=1.0, weights=mix.weights),) if mix.weights else ())


def _by_temperature(tokens: Mapping[str, int], temperature: float) -> Weights:
    largest = max(tokens.values())
    return {name: (size / largest) ** (1 / temperature) for name, size in tokens.items() if size}


def _members(phases: Sequence[Phase], named: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Group -> its sources: each source belongs to its own name, or to the first pattern that fits."""
    patterns = list(dict.fromkeys(name for phase in phases for name in phase.weights))
    members: dict[str, list[str]] = {name: [] for name in patterns}
    for source in named:
        fitting = [p for p in patterns if p == source] or [p for p in patterns if fnmatchcase(source, p)]
        if not fitting:
            raise ConfigError(
                f"mix: source '{source}' has no weight. Give it one (0 leaves it out), or name '*' for the "
                f"rest. Weights are given to: {', '.join(patterns)}."
            )
        members[fitting[0]].append(source)
    for name, sources in members.items():
        if not sources:
            raise ConfigError(f"mix: no source is called '{name}'.{did_you_mean(name, named)}")
    return {name: tuple(sources) for name, sources in members.items()}


def _refuse_repeats(mix: Mix, groups: Sequence[Group]) -> None:
    allowed = mix.max_epochs
    for group in groups:
        limit = allowed.get(group.name, MAX_EPOCHS) if isinstance(allowed, dict) else allowed
        if group.epochs > limit * 1.0001:
            raise ConfigError(
                f"mix: '{group.name}' holds {group.tokens:,} tokens and would be read {group.epochs:.2f} "
                f"times, at most {limit:g} are allowed. Lower its weight, give more text, train on fewer "
                "tokens, or raise mix.max_epochs."
            )
