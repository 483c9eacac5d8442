"""Which micro-batches a step takes: a function of its number alone, so a resumed run needs nothing else."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate

from pydantic import Field

from modelwright.base.config import Config


class BatchRampConfig(Config):
    """Small batches at first, when gradients still agree with one another, and full ones later (as in GPT-3,
    arXiv 2005.14165, section 2.3)."""

    start: float = Field(default=0.25, gt=0, le=1)
    """Size of the first batches, as a share of the full one."""
    fraction: float = Field(default=0.1, ge=0, le=1)
    """Part of the data over which the batch grows, linearly."""


class StepPlan:
    """Micro-batches 0..n-1, dealt out to steps in order: none twice, none left out."""

    def __init__(self, micro_batches: int, accumulation: int, ramp: BatchRampConfig | None = None) -> None:
        if micro_batches < 1:
            raise ValueError(f"a training of {micro_batches} micro-batches: expected at least one")
        self.micro_batches, self.accumulation = micro_batches, accumulation
        self._ends = list(accumulate(self._sizes(ramp)))

    def _sizes(self, ramp: BatchRampConfig | None) -> list[int]:
        sizes: list[int] = []
        left = self.micro_batches
        while left:
            size = self.accumulation
            share = 1 - left / self.micro_batches
            if ramp is not None and share < ramp.fraction:
                grown = ramp.start + (1 - ramp.start) * share / ramp.fraction
                size = max(1, round(grown * self.accumulation))
            sizes.append(min(size, left))
            left -= sizes[-1]
        return sizes

    @property
    def steps(self) -> int:
        """Steps in all; the last one may be smaller."""
        return len(self._ends)

    def of_step(self, step: int) -> range:
        """The micro-batches of step `step`, from 0."""
        return range(self._ends[step - 1] if step else 0, self._ends[step])

    def step_of(self, micro_batch: int) -> int:
        """The step, from 0, that takes a micro-batch."""
        return bisect_right(self._ends, micro_batch)
