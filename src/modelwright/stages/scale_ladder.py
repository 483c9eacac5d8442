"""Which runs a scaling ladder consists of: sizes, costs, and how a budget is divided among them.

Every level of cost is spent at every size, so runs of a level differ only in how they divide it between
size and data. A level is `factor` times the one below it. The next rung, a size larger than all others
at one more level, is left out of the fit: the forecast is about it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from modelwright.base.errors import ConfigError, UserError
from modelwright.model.config import ModelChoice, ModelConfig
from modelwright.model.flops import training_flops_per_token

MIN_STEPS = 40
"""Fewer updates are mostly warm-up: such a run says nothing about its size."""
FOR_TRAINING = 0.85
"""Share of a budget in minutes that is planned: the rest is for measuring, writing and starting up."""


@dataclass(frozen=True, slots=True)
class Rung:
    """A size: layers and width."""

    depth: int
    width: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """ "3x128" -> 3 layers of width 128."""
        found = re.fullmatch(r"\s*(\d+)x(\d+)\s*", text)
        depth, width = (int(number) for number in found.groups()) if found else (0, 0)
        rung = cls(depth, width)
        if depth < 1 or width < 1 or width % (2 * rung.head_dim):
            multiple = 2 * rung.head_dim
            raise ConfigError(
                f"a rung is layers x width, such as 3x128, with a width that is a multiple of {multiple}; "
                f"received '{text}'"
            )
        return rung

    @property
    def name(self) -> str:
        """As it was written."""
        return f"{self.depth}x{self.width}"

    @property
    def head_dim(self) -> int:
        """Small widths get small heads, so that all rungs have at least two."""
        return 32 if self.width < 512 else 64 if self.width < 1024 else 128

    def choice(self, base: ModelChoice) -> ModelChoice:
        """The recipe's model at this size; what follows from a size is derived anew."""
        of_size = {"depth": self.depth, "hidden_size": self.width, "head_dim": self.head_dim}
        derived = dict.fromkeys(("intermediate_size", "num_attention_heads", "num_key_value_heads"))
        return ModelChoice.model_validate({**base.model_dump(), **derived, **of_size})


@dataclass(frozen=True, slots=True)
class Budget:
    """What a ladder may cost, in FLOPs or in seconds."""

    amount: float
    in_seconds: bool

    @classmethod
    def parse(cls, text: str) -> Self:
        """ "2e14" FLOPs, "15min", "90s" or "2h"."""
        found = re.fullmatch(
            r"\s*([0-9.]+(?:e[+]?\d+)?)\s*(flops?|s|sec|m|min|minutes?|h|hours?)?\s*", text.lower()
        )
        try:
            amount = float(found.group(1)) if found else 0.0
        except ValueError:
            amount = 0.0
        if not found or amount <= 0:
            raise ConfigError(f"a budget is FLOPs or time, such as 2e14 or 15min; received '{text}'")
        unit = (found.group(2) or "flops")[0]
        seconds = {"s": 1, "m": 60, "h": 3600}.get(unit)
        return cls(amount * seconds, True) if seconds else cls(amount, False)


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of the ladder."""

    rung: Rung
    level: int
    """0 for the cheapest."""
    flops: float
    """What it was given; whole steps make it cost a little less."""
    tokens: int
    repeat: int
    """Number among runs that differ by their seed alone."""
    held_out: bool

    @property
    def name(self) -> str:
        """For its folder."""
        return f"{self.rung.name}-level{self.level}" + (f"-{self.repeat}" if self.repeat else "")


def first_level(
    budget: Budget, rungs: Sequence[Rung], levels: int, factor: float, seeds: int, rates: Mapping[Rung, float]
) -> float:
    """FLOPs of the cheapest level, such that all runs together cost the budget. `rates` are FLOP/s of each
    size, for a budget in time."""
    *fitted, following = rungs
    below = sum(factor**level for level in range(levels)) * seeds
    if not budget.in_seconds:
        return budget.amount / (len(fitted) * below + factor**levels)
    seconds = sum(below / rates[rung] for rung in fitted) + factor**levels / rates[following]
    return FOR_TRAINING * budget.amount / seconds


def plan_cells(
    rungs: Sequence[Rung],
    shapes: Mapping[Rung, ModelConfig],
    first: float,
    levels: int,
    factor: float,
    seeds: int,
    context: float,
    step_tokens: int,
) -> list[Cell]:
    """All runs, the cheapest first, the held-out one last. `context`: tokens that the mean token may see.
    Raises UserError where a run would be too short."""
    *fitted, following = rungs
    places = [(rung, level, repeat) for level in range(levels) for rung in fitted for repeat in range(seeds)]
    cells: list[Cell] = []
    for rung, level, repeat in [*places, (following, levels, 0)]:
        flops = first * factor**level
        steps = int(flops / training_flops_per_token(shapes[rung], context) // step_tokens)
        if steps < MIN_STEPS:
            raise UserError(
                f"the budget gives rung {rung.name} {steps} steps at level {level}, and fewer than"
                f" {MIN_STEPS} say nothing: raise --budget by a factor of {MIN_STEPS / max(1, steps):.1f},"
                " or leave large rungs or a level out"
            )
        cells.append(Cell(rung, level, flops, steps * step_tokens, repeat, level == levels))
    return cells
