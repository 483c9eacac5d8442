"""What is written of a training's steps besides its losses: arithmetic, norms by group, speed, memory.

What a repeated run gives bit for bit goes to metrics.jsonl, what depends on the clock to timing.jsonl.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn

from modelwright.base.config import Config
from modelwright.base.resources import peak_resident_bytes
from modelwright.base.trackers import TrackerName
from modelwright.training.spread import Spread

GROUPS = (
    ("norm", "norms"),
    ("embed", "embedding"),
    ("lm_head", "head"),
    ("expert", "experts"),
    ("router", "router"),
    ("mlp.gate.", "router"),
    ("attn", "attention"),
    ("mlp", "mlp"),
)
"""(part of a parameter's name, group): the first that fits. What none fits is "other"."""


class RecordConfig(Config):
    """What is recorded how often, and where else it is shown."""

    every: int = Field(default=10, gt=0)
    """Steps between norms of the gradients by group; the first step has them too."""
    updates: bool = False
    """Also how large an update is against its weights. Holds one more copy of the weights at such a step."""
    trackers: tuple[TrackerName, ...] = Field(default=(), exclude=True)
    """Where values are shown as well; no part of what decides the result."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What makes tokens per second into a share of what the device could do."""

    flops_per_token: float
    peak: float
    """FLOP/s of one device in matrix products."""


def group_of(name: str) -> str:
    """The group of a parameter: "model.layers.0.self_attn.q_proj.weight" -> "attention"."""
    return next((group for part, group in GROUPS if part in name), "other")


class Record:
    """Measures one step after the other."""

    def __init__(
        self, spread: Spread, weights: Mapping[str, nn.Parameter], config: RecordConfig, pace: Pace | None
    ) -> None:
        self._spread, self._weights, self._config, self._pace = spread, weights, config, pace
        self._groups: dict[str, list[str]] = {}
        for name in weights:
            self._groups.setdefault(group_of(name), []).append(name)
        self._before: dict[str, Tensor] = {}
        self._start = self._data = 0.0

    def start(self) -> None:
        """A step begins: its data is asked for."""
        self._start = time.perf_counter()

    def data_is_here(self) -> None:
        """Its data has come."""
        self._data = time.perf_counter() - self._start

    @torch.no_grad()
    def gradients(self, step: int) -> dict[str, Tensor]:
        """Norms of the gradients by group, where this step is due. Before they are cut."""
        if not self._is_due(step):
            return {}
        if self._config.updates:
            self._before = {name: weight.detach().clone() for name, weight in self._weights.items()}
        found: dict[str, Tensor] = {}
        for group, names in self._groups.items():
            pieces = {name: grad for name in names if (grad := self._weights[name].grad) is not None}
            if pieces:
                found[f"grad_norm_{group}"] = self._spread.layout.norm(pieces)
        return found

    @torch.no_grad()
    def updates(self) -> dict[str, float]:
        """Norm of the step's change over the norm of the weights, by group, where that was asked for."""
        before, self._before = self._before, {}
        if not before:
            return {}
        norm, pairs = self._spread.layout.norm, list[Tensor]()
        for names in self._groups.values():
            changed = {name: self._weights[name].detach() - before[name] for name in names}
            pairs.append(torch.stack((norm(changed), norm({name: before[name] for name in names}))))
        read = zip(self._groups, torch.stack(pairs).tolist(), strict=True)
        return {f"update_ratio_{group}": change / size for group, (change, size) in read if size}

    def flops(self, tokens: int) -> dict[str, float]:
        """Model arithmetic of all tokens so far, where the cost of one is known."""
        return {"flops": self._pace.flops_per_token * tokens} if self._pace else {}

    def timing(self, tokens: int) -> dict[str, float]:
        """Speed and memory of the step. Its arithmetic has ended, but for the update on a GPU: that falls
        into the next one's time."""
        seconds = time.perf_counter() - self._start
        found = {"tokens_per_second": tokens / seconds, "data_seconds": self._data}
        if self._pace:
            rate = tokens * self._pace.flops_per_token / seconds
            found["mfu"] = rate / (self._pace.peak * self._spread.world.size)
        return found | {"memory_bytes": float(peak_memory(self._spread.device))}

    def _is_due(self, step: int) -> bool:
        return step == 1 or step % self._config.every == 0


def peak_memory(device: torch.device) -> int:
    """Most bytes so far: allocated on a GPU, else of this process in main memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_resident_bytes()
