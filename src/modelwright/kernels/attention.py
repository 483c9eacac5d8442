"""Attention over stored or fresh keys: which of two equal computations, by where it runs.

`explicit` is the plain one: scores, mask, softmax, mix. `F.scaled_dot_product_attention` is the
fused one. On GPUs, and wherever nothing is differentiated, the fused one wins. On CPUs its backward
pass is the slow part: at (16, 4, 256, 64) in bf16 it took 37 ms against 15 ms for the explicit one's,
which may therefore train short contexts, where the (T, S) scores are small enough to hold.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

EXPLICIT_MAX_LENGTH = 512
"""Longest context whose scores are held on a CPU: memory grows with its square."""


def explicit(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """(B, H, T, hd) queries over (B, H, S, hd) keys and values; mask (B, 1, T, S), True = may attend.

    Rows that may attend to nothing are not allowed: their softmax has no value.
    """
    scores = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5
    scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1, dtype=torch.float32).to(v.dtype) @ v


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, causal: bool) -> Tensor:
    """Scaled dot-product attention of equal numbers of heads."""
    differentiated = torch.is_grad_enabled() and q.requires_grad
    if mask is not None and differentiated and q.device.type == "cpu" and q.shape[-2] <= EXPLICIT_MAX_LENGTH:
        return explicit(q, k, v, mask)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
