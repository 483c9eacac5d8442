"""Learning-rate schedules as pure functions of the step: a factor in [0, 1] on the peak rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from pydantic import Field

from modelwright.base.config import Config

Schedule = Callable[[int], float]

SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda left: left,
    "sqrt": lambda left: 1 - math.sqrt(1 - left),
    "cosine": lambda left: 0.5 * (1 - math.cos(math.pi * left)),
}
"""Part of a decay that is left (1 to 0) -> factor (1 to 0)."""


class ScheduleConfig(Config):
    """Shape of the learning rate over a run."""

    kind: Literal["wsd", "cosine", "linear", "inverse_sqrt", "constant"] = "wsd"
    """After the warm-up: stable, then decay (arXiv 2404.06395); or decay all the way, as a half cosine (arXiv
    1608.03983) or linearly (arXiv 2310.07831); or 1 / sqrt(step) (arXiv 1706.03762); or constant."""
    warmup_fraction: float = Field(default=0.02, ge=0, le=1)
    """Part of the run in which the rate rises linearly."""
    decay_fraction: float = Field(default=0.4, ge=0, le=1)
    """For wsd and inverse_sqrt: the last part of the run, in which the rate falls to `final`."""
    shape: Literal["linear", "sqrt", "cosine"] = "linear"
    """Of that fall. sqrt is 1 - sqrt(part done), steep at first (arXiv 2405.18392)."""
    final: float = Field(default=0.0, ge=0, le=1)
    """The factor at the end, as a share of what it was before the fall; constant has none."""


def make_schedule(config: ScheduleConfig, steps: int) -> Schedule:
    """Factor for step 0..steps-1. The first step is already above 0 and the last not quite at `final`."""
    warmup = max(1, round(config.warmup_fraction * steps))
    decays_whole = config.kind in ("cosine", "linear")
    decay = max(1, steps - warmup if decays_whole else round(config.decay_fraction * steps))
    shape = SHAPES["cosine" if config.kind == "cosine" else "linear" if decays_whole else config.shape]

    def factor(step: int) -> float:
        rising = min(1.0, (step + 1) / warmup)
        if config.kind == "constant" or rising < 1.0:
            return rising
        left = min(1.0, (steps - step) / decay)
        stable = math.sqrt(warmup / (step + 1)) if config.kind == "inverse_sqrt" else 1.0
        return stable * (config.final + (1 - config.final) * shape(left))

    return factor
