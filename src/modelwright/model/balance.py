"""Keeping experts alike busy while a mixture of experts is trained.

Left alone, a router sends ever more tokens to the few experts that learn first. Two remedies:

- "loss": the auxiliary loss of Switch Transformers (arXiv 2101.03961), E x sum_i f_i P_i, with f_i the
  tokens sent to expert i over all tokens and P_i its mean probability. As in Qwen3, f is that of the
  whole batch and not of a micro-batch (arXiv 2501.11873), so that experts may specialise within a batch.
- "bias": a number per expert, added to the router's logits for the choice alone and moved by a fixed amount
  after each step, up for idle experts, down for busy ones (DeepSeek-V3, arXiv 2408.15664). No exported
  architecture of ours carries such a bias, so it is faded out before the end, and the loss faded in.

Differences from the papers. f is that of the step before: it is known before the batch is, so that the
loss is a plain sum over tokens, and neither accumulation nor data parallelism changes it. The bias is
added to logits and not to probabilities, so that its step means the same for any number of experts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor

from modelwright.base.config import Config

Total = Callable[[Tensor], Tensor]
"""Adds a tensor up over all processes of a training; with one process, the tensor itself."""

HEALTHY_VIOLATION = 1.0
"""The busiest expert has at most this much more than its share: 1 is twice the share."""
HEALTHY_ENTROPY = 0.9
"""Of 1, where all experts are equally busy."""


class BalanceConfig(Config):
    """How the experts of a mixture are kept alike busy during training."""

    kind: Literal["loss", "bias", "none"] = "loss"
    """"loss" adds an auxiliary loss; "bias" moves a bias of the choice, which is gone by the end; "none" lets
    the router do as it likes."""
    loss: float = Field(default=0.01, ge=0)
    """Weight of the auxiliary loss (`router_aux_loss_coef`); with "bias", of the loss that comes in as the
    bias goes. The loss is experts_per_token where all experts are equally busy."""
    z_loss: float = Field(default=0.0, ge=0)
    """Weight of the square of the router's log-sum-exp, which keeps its logits small (ST-MoE,
    arXiv 2202.08906, takes 0.001)."""
    bias_step: float = Field(default=0.01, gt=0)
    """How far the bias moves after each step, in nats of the router's logits."""
    bias_fades: tuple[float, float] = (0.5, 0.8)
    """Between which shares of the run the bias is faded out. After the second there is none."""

    @model_validator(mode="after")
    def _fades_in_order(self) -> BalanceConfig:
        start, end = self.bias_fades
        if not 0 <= start < end < 1:
            raise ValueError(
                f"bias_fades is {self.bias_fades}, expected two shares of the run in order, the second below"
                " 1: an exported model carries no bias, so the last steps have to be trained without it"
            )
        return self

    def bias_scale(self, progress: float) -> float:
        """How much of the bias counts, 1 to 0, when a share `progress` of the run is done."""
        start, end = self.bias_fades
        return min(1.0, max(0.0, (end - progress) / (end - start))) if self.kind == "bias" else 0.0


class Routing(NamedTuple):
    """What one layer's router said about N tokens."""

    logits: Tensor
    """(N, E) fp32, without the bias of the choice."""
    chosen: Tensor
    """(N, k) int64, the experts that each token was sent to."""


class Balancer:
    """Loads and biases of all mixture layers of one model in training. Its state is three tensors."""

    def __init__(
        self, config: BalanceConfig, layers: int, experts: int, per_token: int, device: torch.device
    ) -> None:
        self.config, self.per_token = config, per_token
        self.load = torch.full((layers, experts), per_token / experts, device=device)
        """(L, E) share of tokens that chose each expert in the step before; sums to `per_token`."""
        self.bias = torch.zeros(layers, experts, device=device)
        """(L, E) in nats, as moved by the steps, before it is faded."""
        self.scale = config.bias_scale(0.0)
        """How much of the bias counts now."""
        self._counts = torch.zeros(layers, experts, device=device)

    @property
    def favour(self) -> Tensor | None:
        """(L, E) what is added to the logits for the choice; None where nothing is."""
        return self.bias * self.scale if self.scale > 0 else None

    def take(self, routings: Sequence[Routing], supervised: Tensor) -> Tensor:
        """Count a micro-batch's choices, and return its auxiliary loss in nats, summed over the tokens that
        `supervised` (N,) marks. Others, such as padding, are not counted."""
        marks = supervised.float()
        total = marks.new_zeros(())
        weight = self._loss_weight()
        for routing, load, counts in zip(routings, self.load, self._counts, strict=True):
            counts.scatter_add_(0, routing.chosen.flatten(), marks.repeat_interleave(self.per_token))
            if weight:
                total = total + weight * balance_loss(routing.logits, load, marks)
            if self.config.z_loss:
                squares = routing.logits.logsumexp(-1).square()
                total = total + self.config.z_loss * (squares @ marks)
        return total / len(routings)

    def _loss_weight(self) -> float:
        if self.config.kind == "bias":
            return self.config.loss * (1 - self.scale)
        return self.config.loss if self.config.kind == "loss" else 0.0

    @torch.no_grad()
    def after_step(self, progress: float, total: Total) -> dict[str, float]:
        """Move the bias by what the step's tokens chose, and say how they were spread."""
        counts = total(self._counts)
        self._counts = torch.zeros_like(counts)
        tokens = counts.sum(-1, keepdim=True) / self.per_token
        if not bool(tokens.all()):  # nothing was read, as after going back to a checkpoint
            return {}
        self.load = counts / tokens
        if self.config.kind == "bias":
            idle = self.per_token / counts.shape[1] - self.load
            self.bias = self.bias + self.config.bias_step * self.scale * idle.sign()
            self.scale = self.config.bias_scale(progress)
            return {**spread(self.load), "router_bias": self.scale}
        return spread(self.load)

    def state(self) -> dict[str, Tensor]:
        """What the next step depends on."""
        return {"load": self.load, "bias": self.bias, "scale": torch.tensor(self.scale, dtype=torch.float64)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned; what was counted since is forgotten."""
        self.load, self.bias = state["load"].to(self.load), state["bias"].to(self.bias)
        self.scale = float(state["scale"])
        self._counts.zero_()


def balance_loss(logits: Tensor, load: Tensor, marks: Tensor) -> Tensor:
    """E x sum_i f_i P_i, summed over tokens: (N, E) logits, (E,) shares f of tokens, (N,) 1 for the tokens
    that count and 0 for others -> (). At equal f it is k for every token: there is nothing to correct."""
    return logits.shape[1] * (marks @ logits.softmax(-1) @ load)


def spread(load: Tensor) -> dict[str, float]:
    """How evenly (L, E) loads are spread. The violation is (busiest - mean) / mean (MaxVio, arXiv 2408.15664)
    of the worst layer and in the mean over layers; the entropy, of the most uneven layer, is 1 at best."""
    shares = load / load.sum(-1, keepdim=True)
    experts = load.shape[1]
    violation = shares.amax(-1) * experts - 1
    entropy = -torch.special.xlogy(shares, shares).sum(-1) / math.log(experts)
    found = {
        "expert_violation": violation.max(),
        "expert_violation_mean": violation.mean(),
        "expert_entropy": entropy.min(),
        "idle_experts": (load == 0).sum().to(load.dtype),
    }
    return dict(zip(found, torch.stack(list(found.values())).tolist(), strict=True))  # read together


def describe(load: Tensor) -> list[str]:
    """(L, E) loads as lines for a log: how busy each layer's experts are, and what would be healthy."""
    shares = load / load.sum(-1, keepdim=True) * load.shape[1]
    busiest, idlest = shares.amax(-1).tolist(), shares.amin(-1).tolist()
    lines = [
        f"mixture layer {number}: experts get {low:.2f} to {high:.2f} of their share"
        for number, (low, high) in enumerate(zip(idlest, busiest, strict=True))
    ]
    found = spread(load)
    healthy = (
        found["expert_violation"] <= HEALTHY_VIOLATION
        and found["expert_entropy"] >= HEALTHY_ENTROPY
        and not found["idle_experts"]
    )
    return [
        *lines,
        f"experts: violation {found['expert_violation']:.2f} (healthy up to {HEALTHY_VIOLATION:g}), entropy "
        f"{found['expert_entropy']:.3f} (from {HEALTHY_ENTROPY:g}), idle {found['idle_experts']:.0f} (none): "
        + ("healthy" if healthy else "uneven; raise model.balance.loss or bias_step"),
    ]
