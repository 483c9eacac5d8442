"""Exponential moving average of the weights, bias-corrected.

The average starts at zero and is divided by 1 - decay^t when read, as Adam does with its moments,
so that it forgets the first weights instead of carrying them for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn


class WeightAverage:
    """Running average of named parameters with a half-life in steps."""

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]], half_life: float) -> None:
        self._live = dict(parameters)
        self._sum = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in self._live.items()}
        self.decay = 0.5 ** (1 / half_life)
        self.steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights of this step in."""
        self.steps += 1
        for name, parameter in self._live.items():
            self._sum[name].lerp_(parameter.float(), 1 - self.decay)

    def average(self) -> dict[str, Tensor]:
        """The corrected average; there must have been a step."""
        assert self.steps > 0, "the average of no weights was asked for"
        return average_from_state(self.state(), self.decay)

    def state(self) -> dict[str, Tensor]:
        """The uncorrected sums, as saved in checkpoints."""
        return {**self._sum, "steps": torch.tensor(self.steps)}

    @torch.no_grad()
    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` returned."""
        for name, tensor in self._sum.items():
            tensor.copy_(state[name])
        self.steps = int(state["steps"])


def average_from_state(state: Mapping[str, Tensor], decay: float) -> dict[str, Tensor]:
    """The corrected average behind a saved state."""
    correction = 1 - decay ** int(state["steps"])
    return {name: tensor / correction for name, tensor in state.items() if name != "steps"}
