"""Distillation: a student learns what a frozen teacher holds likely at each token, beside or instead of the
token itself (arXiv 1503.02531; on the student's own text, arXiv 2306.13649).

With P the teacher's distribution and Q the student's, both at temperature T, for each supervised token

    loss = weight x T^2 x divergence(P, Q) + (1 - weight) x -log q(target)

where q is the student at temperature 1. The divergence is

- forward: KL(P || Q). The student covers all that the teacher holds likely.
- reverse: KL(Q || P) (arXiv 2306.08543). It keeps to what the teacher holds most likely.
- jsd: beta KL(P || M) + (1 - beta) KL(Q || M), M = beta P + (1 - beta) Q: between the two. For beta to 0,
  jsd / beta is forward; for beta to 1, jsd / (1 - beta) is reverse (so its size, too, depends on beta).

T^2 undoes that gradients shrink by it, as in the first of the papers; the second has no such factor.

`top` compares less: the teacher's k likeliest tokens, and all others as one event. No divergence grows when
events are taken together, so this is at most the whole one, and 0 only says that both agree on those k and on
the sum of the rest: how the student orders the rest is not taught. The rest's mass is kept; dropping it and
sharing it out among the k would teach a student to be surer than its teacher.

Where the tokens are the student's own (batches that say so), they are nobody's example: the second term of
the loss is left out, and no gradient flows through how they were drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log, log1p
from typing import Literal, NoReturn

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from modelwright.base import config
from modelwright.base.errors import ConfigError
from modelwright.base.schema import Batch
from modelwright.base.seams import UNITS, Output
from modelwright.kernels.paired_logits import summed_over_logits

SAMPLED = "sampled"
"""The `extra` of batches whose supervised tokens the student has drawn itself."""


class Config(config.Config):
    """How the student is held against its teacher."""

    divergence: Literal["forward", "reverse", "jsd"] = "forward"
    """Which distance between the two distributions is made small."""
    beta: float = Field(default=0.5, gt=0, lt=1)
    """Of jsd: how much of the teacher is in the mixture that both are held against."""
    temperature: float = Field(default=1.0, gt=0)
    """By which both models' logits are divided: above 1, unlikely tokens say more."""
    weight: float = Field(default=1.0, gt=0, le=1)
    """The divergence's share of the loss; the rest is the likelihood of the data's own tokens."""
    top: int = Field(default=0, ge=0)
    """Only this many of the teacher's likeliest tokens are told apart. 0: all."""


def objective(config: Config) -> NoReturn:
    """An objective that is built by its name has no teacher."""
    raise ConfigError(
        "the objective 'distill' needs a teacher, and a name brings none: set finetune.teacher to"
        " {model: FOLDER}, and these settings with it"
    )


def divergence(student: Tensor, teacher: Tensor, config: Config) -> Tensor:
    """(n,) nats for each token from (n, V) log-probabilities of both."""
    if config.divergence == "forward":
        return _kl(teacher, student)
    if config.divergence == "reverse":
        return _kl(student, teacher)
    beta = config.beta
    mixture = torch.logaddexp(teacher + log(beta), student + log1p(-beta))
    return beta * _kl(teacher, mixture) + (1 - beta) * _kl(student, mixture)


def _kl(first: Tensor, second: Tensor) -> Tensor:
    """(n,) KL(first || second) of (n, V) log-probabilities."""
    return (first.exp() * (first - second)).sum(-1)


def taken_together(log_probabilities: Tensor, kept: Tensor) -> Tensor:
    """(n, V) log-probabilities -> (n, k + 1): those of the (n, k) ids that are kept, and last that of all
    others together."""
    rest = log_probabilities.scatter(1, kept, float("-inf")).logsumexp(-1, keepdim=True)
    return torch.cat((log_probabilities.gather(1, kept), rest), dim=1)


def judge(config: Config, *, own: bool = False) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """What is made of (n, V) and (n, W) fp32 logits of student and teacher, and (n,) targets: the loss, and
    divergence and -log q(target), unweighted, all summed over the n tokens. Where one head is longer than the
    other, its last rows belong to no token (heads are padded to round sizes) and are not compared.
    `own`: the targets are the student's, and not to be made likelier."""

    def judged(student: Tensor, teacher: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        words, heat = min(student.shape[1], teacher.shape[1]), config.temperature
        learned, shown = ((each[:, :words] / heat).log_softmax(-1) for each in (student, teacher))
        if 0 < config.top < words:
            kept = shown.topk(config.top, dim=-1).indices
            learned, shown = taken_together(learned, kept), taken_together(shown, kept)
        apart = divergence(learned, shown, config).sum()
        likelihood = F.cross_entropy(student, targets, reduction="sum")
        loss = config.weight * heat**2 * apart + (0.0 if own else 1 - config.weight) * likelihood
        return loss, torch.stack((apart, likelihood))

    return judged


@dataclass(frozen=True, slots=True)
class Distillation:
    """The loss above, summed over the supervised tokens. The teacher is a constant of the loss: it reads each
    batch as the student does, with the same positions and borders of documents, and nothing in it changes."""

    teacher: Callable[[Batch], Output]
    config: Config

    def count(self, batch: Batch) -> int:
        """Supervised tokens."""
        return len(batch.supervised())

    def __call__(self, output: Output, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """(summed loss, sums of the divergence and of -log q(target), unweighted; of the student's own tokens
        the latter has another name, and `sampled` counts them). A step may have tokens of both kinds, so each
        kind's -log q comes with their number."""
        with torch.no_grad():
            taught = self.teacher(batch)
        places, targets = batch.supervised(), batch.targets.flatten()
        student, teacher = (each.hidden.flatten(0, 1)[places] for each in (output, taught))
        head = output.head if output.words is None else output.words.whole(output.head)
        own = SAMPLED in batch.extra
        loss, parts = summed_over_logits(
            student, head, teacher, taught.head, targets[places], judge(self.config, own=own)
        )
        name, units = "own_token" if own else "next_token", parts.new_tensor(len(places))
        metrics = {"divergence": parts[0], name: parts[1], name + UNITS: units}
        if own:
            metrics[SAMPLED] = units
        if output.auxiliary is None:
            return loss, metrics
        return loss + output.auxiliary, metrics | {"auxiliary": output.auxiliary.detach()}
