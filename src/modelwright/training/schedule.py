"""Learning-rate schedules as pure functions of the step: a factor in [0, 1] on the peak rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from pydantic import Field

from modelwright.base.config import Config

Schedule = Callable[[int], float]


class ScheduleConfig(Config):
    """Shape of the learning rate over a run."""

    kind: Literal["wsd", "cosine", "constant"] = "wsd"
    """Warm-up, stable, decay (arXiv 2404.06395); or cosine (arXiv 1608.03983); or constant after warm-up."""
    warmup_fraction: float = Field(default=0.02, ge=0, le=1)
    """Part of the run in which the rate rises linearly."""
    decay_fraction: float = Field(default=0.4, ge=0, le=1)
    """For wsd: the last part of the run, in which the rate falls linearly."""
    final: float = Field(default=0.0, ge=0, le=1)
    """The factor at the end."""


def make_schedule(config: ScheduleConfig, steps: int) -> Schedule:
    """Factor for step 0..steps-1. The first step is already above 0 and the last not quite at `final`."""
    warmup = max(1, round(config.warmup_fraction * steps))
    decay = max(1, round(config.decay_fraction * steps))

    def factor(step: int) -> float:
        rising = min(1.0, (step + 1) / warmup)
        if config.kind == "constant" or rising < 1.0:
            return rising
        if config.kind == "wsd":
            left = min(1.0, (steps - step) / decay)
        else:
            left = 0.5 * (1 + math.cos(math.pi * max(0, step - warmup) / max(1, steps - warmup)))
        return config.final + (1 - config.final) * left

    return factor
