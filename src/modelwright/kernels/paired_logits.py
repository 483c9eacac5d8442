"""Losses of two models' logits for the same tokens, without ever holding all logits of either.

A loss that compares whole distributions needs two tensors of B x T tokens over V words, the largest of a
training step twice. `summed_over_logits` walks over the tokens in chunks, as kernels/cross_entropy.py does:
the logits of a chunk are made from both hidden states, judged in fp32, and the gradient is made on the spot,
while they are at hand. What is judged, and how, is a function of plain logits.

`reference_sums` is the plain version that it is tested against.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from modelwright.kernels.cross_entropy import CHUNK, chunks, gpu_logits, memory_of
from modelwright.kernels.linear import add_weight_gradient

Judge = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(n, V) logits of the model that learns, (n, W) of the other one, both fp32, and (n,) targets -> the loss,
summed over the n tokens, and (k,) sums of its parts."""


def reference_sums(
    hidden: Tensor, head: Tensor, other: Tensor, other_head: Tensor, targets: Tensor, judge: Judge
) -> tuple[Tensor, Tensor]:
    """What `summed_over_logits` returns, from all logits at once."""
    theirs = (other @ other_head.to(other.dtype).T).float()
    return judge((hidden @ head.to(hidden.dtype).T).float(), theirs, targets)


def summed_over_logits(
    hidden: Tensor,
    head: Tensor,
    other: Tensor,
    other_head: Tensor,
    targets: Tensor,
    judge: Judge,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """(loss, (k,) its parts without a gradient), summed over N tokens in fp32. hidden (N, D), head (V, D),
    targets (N,) int64; the other model's hidden states (N, E) and head (W, E) get no gradient."""
    size = chunk or paired_chunk(len(head), memory_of(hidden.device))
    needs_gradient = torch.is_grad_enabled() and (hidden.requires_grad or head.requires_grad)
    inputs = (hidden, head, other.detach(), other_head.detach(), targets)
    return _Summed.apply(*inputs, judge, size, needs_gradient)  # type: ignore[no-any-return]


def paired_chunk(words: int, gpu_memory: float = 0.0) -> int:
    """Tokens at a time, as `cross_entropy.chunk_size` has it: judging is never one compiled pass."""
    return max(1, gpu_logits(gpu_memory, fused=False) // words) if gpu_memory else CHUNK


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        other: Tensor,
        other_head: Tensor,
        targets: Tensor,
        judge: Judge,
        chunk: int,
        needs_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        cast, other_cast = head.to(hidden.dtype), other_head.to(other.dtype)
        d_hidden = torch.empty_like(hidden) if needs_gradient else None
        learns = needs_gradient and ctx.needs_input_grad[1]  # adapters leave the head frozen
        d_head = torch.zeros_like(head, dtype=torch.float32) if learns else None
        nothing = (hidden[:0] @ cast.T).float(), (other[:0] @ other_cast.T).float()
        loss, parts = judge(*nothing, targets[:0])
        pairs = zip(chunks(hidden, chunk), chunks(other, chunk), strict=True)
        for (part, rows), (_, other_rows) in pairs:
            count = part.stop - part.start
            logits = (rows @ cast.T)[:count].float().requires_grad_(needs_gradient)
            theirs = (other_rows @ other_cast.T)[:count].float()
            with torch.set_grad_enabled(needs_gradient):
                judged, found = judge(logits, theirs, targets[part])
            loss, parts = loss + judged.detach(), parts + found.detach()
            if d_hidden is not None:
                (slope,) = torch.autograd.grad(judged, logits)
                slope = F.pad(slope.to(hidden.dtype), (0, 0, 0, len(rows) - count))
                d_hidden[part] = (slope @ cast)[:count]
                if d_head is not None:
                    add_weight_gradient(d_head, slope, rows)
        ctx.save_for_backward(d_hidden, d_head)
        ctx.mark_non_differentiable(parts)
        return loss, parts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        d_hidden, d_head = ctx.saved_tensors
        d_head = None if d_head is None else d_head * upstream[0]
        return d_hidden * upstream[0].to(d_hidden.dtype), d_head, *[None] * 6
