"""Direct preference optimization (arXiv 2305.18290).

A batch holds pairs as rows 2i (chosen) and 2i + 1 (rejected), and in `extra["reference_logps"]` (2P,)
the summed log-probability of each row's answer under the frozen reference: the policy at the start,
computed once before training, so that it cannot move.

Differences from the paper: none in the loss; `sft_weight` adds the chosen answer's negative
log-likelihood per token (RPO, arXiv 2404.19733), which keeps a small model from pushing both answers down.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from modelwright.base import config
from modelwright.base.schema import IGNORE, Batch
from modelwright.base.seams import Output
from modelwright.kernels.cross_entropy import token_logprobs


class Config(config.Config):
    """How far the policy may move, and what holds it."""

    beta: float = Field(default=0.1, gt=0)
    """How much a nat of movement is worth: the smaller, the further the policy moves."""
    sft_weight: float = Field(default=0.0, ge=0)
    """Weight of the chosen answers' own likelihood per token (RPO)."""


def objective(config: Config) -> DirectPreference:
    """DPO with these settings."""
    return DirectPreference(beta=config.beta, sft_weight=config.sft_weight)


def sequence_logps(output: Output, targets: Tensor, places: Tensor | None = None) -> Tensor:
    """(B,) sum over each row's supervised tokens of log p(target), in fp32. `places` are those tokens' among
    all B x T (`Batch.supervised`), where they are known."""
    if places is None:
        places = (targets.flatten() != IGNORE).nonzero().flatten()
    hidden, targets_there = output.hidden.flatten(0, 1)[places], targets.flatten()[places]
    found = token_logprobs(hidden, output.head, targets_there, words=output.words)
    rows = places // targets.shape[1]
    return torch.zeros(len(targets), dtype=found.dtype, device=found.device).index_add(0, rows, found)


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectPreference:
    """-log sigmoid(beta x margin), where the margin is how much more the policy has moved towards the
    chosen answer than towards the rejected one, in nats. ln 2 at the first step, when it has not moved."""

    beta: float = 0.1
    sft_weight: float = 0.0

    def count(self, batch: Batch) -> int:
        """Pairs."""
        return len(batch.ids) // 2

    def __call__(self, output: Output, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """(summed loss over pairs, sums of accuracy, margin and the two implicit rewards)."""
        logps = sequence_logps(output, batch.targets, batch.supervised())
        rewards = self.beta * (logps - batch.extra["reference_logps"])
        chosen, rejected = rewards[0::2], rewards[1::2]
        margin = chosen - rejected
        loss = -F.logsigmoid(margin).sum()
        if self.sft_weight:
            lengths = (batch.targets[0::2] != IGNORE).sum(1).clamp_min(1)
            loss = loss - self.sft_weight * (logps[0::2] / lengths).sum()
        metrics = {
            "accuracy": (margin > 0).float().sum(),
            "margin": margin.detach().sum(),
            "chosen_reward": chosen.detach().sum(),
            "rejected_reward": rejected.detach().sum(),
        }
        return loss, metrics
