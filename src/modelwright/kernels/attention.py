"""Attention over stored or fresh keys: which of two equal computations, by where it runs.

`explicit` is the plain one: scores, mask, softmax, mix. `F.scaled_dot_product_attention` is the
fused one. On GPUs, and wherever nothing is differentiated, the fused one wins. On CPUs its backward
pass is the slow part: forward and backward at (16, 4, 256, 64) in bf16 took 5 + 36 ms against 8 + 8 ms
for the explicit one, which may therefore train short contexts, where the (T, S) scores are small
enough to hold.

In bf16 its scores are rounded to bf16 before the softmax, as in any attention that is written out;
the fused one keeps them in fp32. With unit-normal queries and keys that doubles the error at most; with
large scores it costs more, one more reason for QK-norm.

On CPUs that multiply bf16 (AVX512-BF16, AMX) that format goes through `tile_attention`, which holds no scores
and leaves out what is masked: forward and backward took 7 ms there with matrix units, and 6 ms on two Zen 5
cores without, where the explicit one took 11 and the fused one 34.

On CUDA documents that share a row go through FlexAttention (`flex`), which skips what is masked.

Elsewhere masks arrive as numbers to add (0 or -inf), made once for all layers: a CPU adds them for nothing,
where choosing by booleans cost more than the softmax.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from modelwright.kernels import flex, native, tile_attention

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

EXPLICIT_MAX_LENGTH = 512
"""Longest context whose scores are held on a CPU: memory grows with its square."""


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask, True = may attend, as what is added to the scores."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, float("-inf"))


def explicit(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """(B, H, T, hd) queries over (B, K, S, hd) keys and values, K dividing H; bias (B, 1, T, S) is added to
    the scores.

    Rows that may attend to nothing are not allowed: their softmax has no value.
    """
    if not _is_shared(bias, q, k):
        wanted = f"(1 or {q.shape[0]}, 1, {q.shape[2]}, {k.shape[2]})"
        raise ValueError(f"the bias is {tuple(bias.shape)}, expected {wanted}: one for all heads")
    return _Explicit.apply(q, k, v, bias)  # type: ignore[no-any-return]


def _is_shared(bias: Tensor, q: Tensor, k: Tensor) -> bool:
    """Whether a bias says for each position of each sequence (or of all) what all heads may see."""
    shape = (1, q.shape[2], k.shape[2])
    return bias.shape in ((q.shape[0], *shape), (1, *shape)) and bias.dtype == q.dtype


class _Explicit(torch.autograd.Function):
    """The gradient is written out to keep the probabilities alone, in the dtype of the products. The query
    heads of a group are rows that share their keys: (B, K, G T, hd), so nothing is repeated."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        grouped = q.reshape(*k.shape[:2], -1, q.shape[-1])
        scores = grouped @ k.transpose(-2, -1)
        probabilities = _softmax(scores, bias, q.shape[1], q.shape[-1] ** -0.5)
        ctx.save_for_backward(grouped, k, v, probabilities, bias)
        ctx.heads = q.shape[1]
        return (probabilities @ v).reshape(q.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, p, bias = ctx.saved_tensors
        slope = upstream[0].reshape(q.shape)
        d_p = slope @ v.transpose(-2, -1)
        d_scores = _softmax_backward(p, d_p, bias, ctx.heads, q.shape[-1] ** -0.5)
        d_q = (d_scores @ k).reshape(upstream[0].shape)
        return d_q, d_scores.transpose(-2, -1) @ q, p.transpose(-2, -1) @ slope, None


def _softmax(scores: Tensor, bias: Tensor, heads: int, scale: float) -> Tensor:
    """softmax(scale x scores + bias) in place; (B, K, G T, S) scores of (B, H, T, S), bias (B, 1, T, S)."""
    if native.usable(scores, bias):
        sizes = _rows(scores, bias, heads)
        native.call("softmax", scores.dtype, scores, bias.contiguous(), *sizes, scale)
        return scores
    by_head = scores.view(-1, heads, *bias.shape[-2:]).mul_(scale).add_(bias)
    return by_head.softmax(-1).view_as(scores)  # sums in fp32 within


def _softmax_backward(p: Tensor, gradient: Tensor, bias: Tensor, heads: int, scale: float) -> Tensor:
    """The gradient of the scores before `scale`, from that of the probabilities, which may be overwritten."""
    if native.usable(p, gradient, bias):
        sizes = _rows(gradient, bias, heads)
        native.call("softmax_backward", p.dtype, p, gradient, bias.contiguous(), *sizes, scale)
        return gradient
    return torch.ops.aten._softmax_backward_data(gradient, p, -1, p.dtype).mul_(scale)


def _rows(scores: Tensor, bias: Tensor, heads: int) -> tuple[int, int, int, int]:
    """Rows, their size, positions, and rows that share a mask: how `native.cpp` finds a row's mask."""
    length, size = bias.shape[-2:]
    rows = scores.numel() // size
    return rows, size, length, heads * length if bias.shape[0] > 1 else rows


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | BlockMask | None, *, causal: bool) -> Tensor:
    """Scaled dot-product attention of (B, H, T, hd) queries over (B, K, S, hd) keys and values, K dividing H;
    bias as `additive` makes it, or `flex.block_mask`."""
    if bias is not None and not isinstance(bias, Tensor):
        return flex.attend(q, k, v, bias)
    if (causal if bias is None else _is_shared(bias, q, k)) and tile_attention.usable(q, k, v, bias):
        return tile_attention.attend(q, k, v, bias)
    differentiated = torch.is_grad_enabled() and q.requires_grad
    short_on_cpu = q.device.type == "cpu" and q.shape[-2] <= EXPLICIT_MAX_LENGTH
    if bias is not None and differentiated and short_on_cpu and _is_shared(bias, q, k):
        return explicit(q, k, v, bias)
    groups = q.shape[1] // k.shape[1]
    if groups > 1 and q.shape[-2] == 1:  # decoding: the heads of a group are rows that share their keys
        mixed = F.scaled_dot_product_attention(q.reshape(*k.shape[:2], groups, -1), k, v, attn_mask=bias)
        return mixed.reshape(q.shape)
    if groups > 1 and bias is None and q.device.type == "cuda":  # FlashAttention knows groups
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)
    if groups > 1:  # repeated by hand: CPU kernels for unequal head counts are the slow ones
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, is_causal=causal)
