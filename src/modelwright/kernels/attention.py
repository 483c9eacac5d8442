"""Attention over stored or fresh keys: which of two equal computations, by where it runs.

`explicit` is the plain one: scores, mask, softmax, mix. `F.scaled_dot_product_attention` is the
fused one. On GPUs, and wherever nothing is differentiated, the fused one wins. On CPUs its backward
pass is the slow part: forward and backward at (16, 4, 256, 64) in bf16 took 5 + 36 ms against 8 + 8 ms
for the explicit one, which may therefore train short contexts, where the (T, S) scores are small
enough to hold.

In bf16 its scores are rounded to bf16 before the softmax, as in any attention that is written out;
the fused one keeps them in fp32. With unit-normal queries and keys that doubles the error at most; with
large scores it costs more, one more reason for QK-norm.

Masks arrive as numbers to add (0 or -inf), made once for all layers: a CPU adds them for nothing,
where choosing by booleans cost more than the softmax.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

EXPLICIT_MAX_LENGTH = 512
"""Longest context whose scores are held on a CPU: memory grows with its square."""


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask, True = may attend, as what is added to the scores."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, float("-inf"))


def explicit(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """(B, H, T, hd) queries over (B, H, S, hd) keys and values; bias (B, 1, T, S) is added to the scores.

    Rows that may attend to nothing are not allowed: their softmax has no value.
    """
    return _Explicit.apply(q, k, v, bias)  # type: ignore[no-any-return]


class _Explicit(torch.autograd.Function):
    """The gradient is written out to keep the probabilities alone, in the dtype of the products."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        q = q * q.shape[-1] ** -0.5
        probabilities = (q @ k.transpose(-2, -1)).add_(bias).softmax(-1)  # sums in fp32 within
        ctx.save_for_backward(q, k, v, probabilities)
        return probabilities @ v

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, p = ctx.saved_tensors
        d_p = upstream[0] @ v.transpose(-2, -1)
        d_scores = torch.ops.aten._softmax_backward_data(d_p, p, -1, p.dtype)
        d_q = (d_scores @ k) * q.shape[-1] ** -0.5
        return d_q, d_scores.transpose(-2, -1) @ q, p.transpose(-2, -1) @ upstream[0], None


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, *, causal: bool) -> Tensor:
    """Scaled dot-product attention of equal numbers of heads; bias as `additive` makes it."""
    differentiated = torch.is_grad_enabled() and q.requires_grad
    if bias is not None and differentiated and q.device.type == "cpu" and q.shape[-2] <= EXPLICIT_MAX_LENGTH:
        return explicit(q, k, v, bias)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, is_causal=causal)
