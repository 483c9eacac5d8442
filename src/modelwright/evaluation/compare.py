"""How far a changed model is from the original: the measures that a quantized model is judged by.

Both models see the same tokens, and their next-token distributions are compared position by position,
as llama.cpp's `--kl-divergence` does. KL divergence and top-1 agreement notice damage long before the
loss moves: errors that cancel in an average still change what is said.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import NormalDist, fmean

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from modelwright.evaluation.statistics import Interval, t_interval, wilson

LOGITS_AT_ONCE = 1 << 22
"""Logits of each model that are compared at a time, in fp64 (32 MiB, and some copies of that)."""


def kl_divergence(reference: Tensor, other: Tensor) -> Tensor:
    """KL(reference || other) in nats of each position: (..., V) logits twice -> (...).

    In fp64: the divergences of a good copy lie below what fp32 resolves near 1.
    """
    p, q = reference.double().log_softmax(-1), other.double().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).clamp_min(0.0)


def same_top(reference: Tensor, other: Tensor) -> Tensor:
    """Whether both find the same token most likely: (..., V) twice -> (...) bool."""
    return reference.argmax(-1) == other.argmax(-1)


def quantile_interval(values: Tensor, quantile: float, confidence: float = 0.95) -> Interval:
    """A quantile with the distribution-free interval from order statistics (`mean` is the quantile).

    The number of values below the true quantile is binomial, whatever the distribution; its normal
    approximation gives the ranks of the bounds.
    """
    ordered = values.flatten().double().sort().values
    n = len(ordered)
    spread = NormalDist().inv_cdf(0.5 + confidence / 2) * math.sqrt(n * quantile * (1 - quantile))
    rank = quantile * n
    low, middle, high = (
        float(ordered[min(max(int(r), 0), n - 1)])
        for r in (math.floor(rank - spread), math.ceil(rank) - 1, math.ceil(rank + spread))
    )
    return Interval(mean=middle, low=low, high=high, n=n)


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """What a change did to a model. Intervals hold the true value with 95 % confidence."""

    mean_kl: Interval
    """Nats a token. Its interval is over sequences, since the tokens of one sequence are not
    independent; so `n` counts sequences."""
    kl_99: Interval
    """The divergence that 99 % of the tokens stay below; `n` counts tokens."""
    top1: Interval
    """Share of tokens with the same most likely next token; `n` counts tokens."""
    bits_per_byte_before: float
    bits_per_byte_after: float
    bits_per_byte_change: Interval
    """After minus before, paired by sequence."""


@dataclass(slots=True)
class Comparison:
    """Collects both models' logits sequence by sequence; keeps three numbers a token, not the logits.

    They are kept as Python's numbers: a small tensor beside the large ones that come and go keeps glibc's
    malloc from using their memory again (4 to 6 MiB a sequence of 256 x 4,096 logits, measured).
    """

    _kl: list[list[float]] = field(default_factory=list)
    _same: list[list[bool]] = field(default_factory=list)
    _nats: list[tuple[float, float, int]] = field(default_factory=list)

    def add(self, reference: Tensor, other: Tensor, targets: Tensor, sizes: Tensor) -> None:
        """One sequence: (T, V) logits of both, (T,) true next tokens, and (T,) how many bytes of text each
        stands for; those of 0 bytes count in neither sum of bits per byte (as in `likelihood`)."""
        kl, same, nats = list[Tensor](), list[Tensor](), [0.0, 0.0]
        rows = max(1, LOGITS_AT_ONCE // reference.shape[-1])
        parts = (tensor.split(rows) for tensor in (reference, other, targets, sizes > 0))
        for before, after, true, text in zip(*parts, strict=True):
            kl.append(kl_divergence(before, after).cpu())
            same.append(same_top(before, after).cpu())
            for which, logits in enumerate((before, after)):
                losses = cross_entropy(logits[text].double(), true[text], reduction="sum")
                nats[which] += float(losses)
        self._kl.append(torch.cat(kl).tolist())
        self._same.append(torch.cat(same).tolist())
        self._nats.append((nats[0], nats[1], int(sizes.sum())))

    def result(self) -> Damage:
        """The verdict over everything added."""
        if not self._kl:
            raise ValueError("Nothing was compared: add at least one sequence.")
        same = [each for sequence in self._same for each in sequence]
        kl = torch.tensor([each for sequence in self._kl for each in sequence], dtype=torch.float64)
        size = sum(bytes_ for _, _, bytes_ in self._nats)
        bits = 1 / (math.log(2) * max(size, 1))
        before, after = (sum(row[i] for row in self._nats) * bits for i in (0, 1))
        return Damage(
            mean_kl=t_interval([fmean(values) for values in self._kl]),
            kl_99=quantile_interval(kl, 0.99),
            top1=wilson(sum(same), len(same)),
            bits_per_byte_before=before,
            bits_per_byte_after=after,
            bits_per_byte_change=self._change(size),
        )

    def _change(self, size: int) -> Interval:
        """Sum over sequences of the change, as n times its mean: sequences are the units of the test."""
        changes = t_interval([after - before for before, after, _ in self._nats])
        factor = len(self._nats) / (math.log(2) * max(size, 1))
        return Interval(
            mean=changes.mean * factor, low=changes.low * factor, high=changes.high * factor, n=changes.n
        )
