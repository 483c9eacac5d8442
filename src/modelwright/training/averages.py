"""Averages of the weights along a run, several at once, each bias-corrected.

Every average is a running mean: the n-th weights that it takes in enter with a share w(n), w(1) = 1, and all
that was there before shrinks by 1 - w(n). The rules differ in w alone:

- exponential: w(n) = (1 - d) / (1 - d^n), which is the moving average with decay d after Adam's correction of
  its start (arXiv 1412.6980), kept corrected instead of corrected when read;
- tail: w(n) = 1 / n from a given step on, the uniform mean of a run's last part (arXiv 1803.05407);
- power: w(n) = 1 - (1 - 1/n)^(g + 1), a mean whose memory grows with the run, so that two of them and a few
  snapshots give any other width afterwards (arXiv 2312.02696, section 3.1).

All of it is element by element, so a process that holds pieces of the weights averages its pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from modelwright.base.config import Config

UPDATES = "updates"
"""Name of an average's count in its state."""
FINE = 32
"""Updates within the shortest half-life from which on more of them change an average no more."""

Fraction = Annotated[float, Field(gt=0, le=1)]
Width = Annotated[float, Field(gt=0, le=0.28)]


class AveragesConfig(Config):
    """Which averages are kept during a run. Each costs the memory of one copy of the weights in fp32."""

    half_lives: tuple[Fraction, ...] = (0.03,)
    """Exponential averages: half-lives as fractions of the run."""
    tails: tuple[Fraction, ...] = ()
    """Uniform averages over the last part of the run: its length as a fraction of the run."""
    powers: tuple[Width, ...] = ()
    """Power-function averages by width (standard deviation over length): 0.05 and 0.1 in the paper."""
    snapshots: int = Field(default=0, ge=0)
    """How often in a run the power-function averages are saved, to make others of them afterwards."""
    every: int | None = Field(default=None, gt=0)
    """Steps between updates; decays are adapted, so half-lives stay what they are. None: 32 updates within
    the shortest half-life, tail or width, at most one a step."""
    on_cpu: bool = False
    """Keep them in the CPU's memory where training runs on a GPU."""

    def rules(self, steps: int) -> list[Rule]:
        """The averages of a run of `steps` steps."""
        every = self.spacing(steps)
        exponential = [
            exponential_rule(f"ema {share:g}", max(1.0, share * steps) / every) for share in self.half_lives
        ]
        tails = [
            Rule(f"tail {share:g}", lambda n: 1 / n, steps - max(1, round(share * steps)))
            for share in self.tails
        ]
        return [*exponential, *tails, *(power_rule(width) for width in self.powers)]

    def spacing(self, steps: int) -> int:
        """Steps between updates."""
        shortest = min((*self.half_lives, *self.tails, *self.powers), default=1.0)
        return self.every or max(1, int(shortest * steps / FINE))


@dataclass(frozen=True, slots=True)
class Rule:
    """How an average takes weights in."""

    name: str
    share: Callable[[int], float]
    """Share of the n-th weights taken in, n from 1, when they enter; share(1) is 1."""
    begin: int = 0
    """Steps at the beginning of the run that are left out."""


def exponential_rule(name: str, half_life: float) -> Rule:
    """Half-life in updates."""
    decay = 0.5 ** (1 / half_life)
    return Rule(name, lambda n: (1 - decay) / (1 - decay**n))


def power_rule(width: float) -> Rule:
    """By relative standard deviation, as the paper names them."""
    exponent = power_exponent(width) + 1
    return Rule(f"power {width:g}", lambda n: 1 - (1 - 1 / n) ** exponent)


def power_exponent(width: float) -> float:
    """g of the profile t^g whose relative standard deviation is `width`: the largest real root of
    width^2 = (g + 1) / ((g + 2)^2 (g + 3)) (arXiv 2312.02696, equation 126)."""
    inverse = width**-2
    roots = np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse])
    return float(max(root.real for root in roots))


class Averages:
    """Running averages of named parameters."""

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], config: AveragesConfig, steps: int = 1
    ) -> None:
        self._live, self._steps, self._every = dict(parameters), steps, config.spacing(steps)
        self._rules = config.rules(steps)
        where = "cpu" if config.on_cpu else None
        self._means = {
            rule.name: {
                name: torch.zeros_like(p, dtype=torch.float32, device=where) for name, p in self._live.items()
            }
            for rule in self._rules
        }
        self._counts = dict.fromkeys(self._means, 0)
        wanted = config.snapshots if config.powers else 0
        self._snapshots = {round(steps * number / wanted) for number in range(1, wanted + 1)}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the weights after step `step` (from 1) in, where it is one of those that count. The last one
        that was planned is, whatever the spacing."""
        if (self._steps - step) % self._every == 0:
            self._take_in(step)

    @torch.no_grad()
    def end(self, step: int) -> list[str]:
        """After the last step, which may have come early: its weights count in any case. The names of those
        averages that were to begin later."""
        if (self._steps - step) % self._every:
            self._take_in(step)
        return [rule.name for rule in self._rules if step <= rule.begin]

    def _take_in(self, step: int) -> None:
        weights: list[Tensor] | None = None
        for rule in self._rules:
            if step <= rule.begin:
                continue
            means = list(self._means[rule.name].values())
            if weights is None:  # brought to the averages' device once for all of them
                weights = [p.detach().to(means[0].device).float() for p in self._live.values()]
            self._counts[rule.name] += 1
            torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
                means, weights, rule.share(self._counts[rule.name])
            )

    def all(self) -> dict[str, dict[str, Tensor]]:
        """Name -> average, for those that have taken something in."""
        return {name: means for name, means in self._means.items() if self._counts[name]}

    def is_snapshot(self, step: int) -> bool:
        """Whether the power-function averages are to be saved after this step."""
        return step in self._snapshots

    def state(self, powers_only: bool = False) -> dict[str, Tensor]:
        """Averages and counts under "name/parameter", as saved in checkpoints."""
        state: dict[str, Tensor] = {}
        for name, means in self._means.items():
            if name.startswith("power") or not powers_only:
                state |= {f"{name}/{parameter}": mean for parameter, mean in means.items()}
                state[f"{name}/{UPDATES}"] = torch.tensor(self._counts[name])
        return state

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned."""
        for name, means in self._means.items():
            for parameter, mean in means.items():
                mean.copy_(state[f"{name}/{parameter}"])
            self._counts[name] = int(state[f"{name}/{UPDATES}"])


def names_in(keys: Iterable[str]) -> list[str]:
    """Names of the averages in a saved state."""
    return [key.removesuffix(f"/{UPDATES}") for key in keys if key.endswith(f"/{UPDATES}")]


def average_from_state(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """One average out of a saved state; empty where it has not begun."""
    if not int(state[f"{name}/{UPDATES}"]):
        return {}
    begin = f"{name}/"
    return {
        key.removeprefix(begin): tensor
        for key, tensor in state.items()
        if key.startswith(begin) and key != begin + UPDATES
    }
