"""Rotary positions (RoPE, arXiv 2104.09864), half-split order, with the gradient written out.

The gradient of a rotation is the rotation back, so nothing but the angles is kept. `reference` is the
plain version.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from modelwright.kernels import native


def reference(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (i, i + hd/2) of (..., hd) by the angles whose cosines and sines are given."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The same as `reference`; cos and sin (..., hd) repeat their first half and carry no gradient."""
    if native.usable(x, cos, sin) and _fits(x, cos, sin):
        return _Native.apply(x, cos.contiguous(), sin.contiguous())  # type: ignore[no-any-return]
    return _Rotation.apply(x, cos, sin)  # type: ignore[no-any-return]


def _fits(x: Tensor, cos: Tensor, sin: Tensor) -> bool:
    if x.ndim != 4 or x.stride(-1) != 1 or x.shape[-1] % 2:
        return False
    angles = (1, x.shape[2], x.shape[3])
    return cos.shape == sin.shape and cos.shape in ((x.shape[0], *angles), (1, *angles))


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    cos, sin = cos[..., :half], sin[..., :half]
    # Stacked, not written into halves: compiled, the stack is one plain loop, eight times as fast.
    return torch.stack((first * cos - second * sin, second * cos + first * sin), dim=-2).flatten(-2)


def _turn_natively(x: Tensor, out: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    batch, heads, length, size = x.shape
    strides = [tensor.stride(axis) for tensor in (x, out) for axis in (0, 2, 1)]
    sizes = batch, length, heads, size, cos.numel() // size
    native.call("rotate", x.dtype, x, cos, sin, out, *sizes, *strides)
    return out


class _Native(torch.autograd.Function):
    """Heads and positions change places in memory on the way: what is (B, T, H, hd) there, seen as
    (B, H, T, hd), comes out contiguous, as attention multiplies it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn_natively(x, x.new_empty(x.shape), cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        slope = upstream[0].contiguous()
        batch, heads, length, size = slope.shape
        d_x = slope.new_empty(batch, length, heads, size).transpose(1, 2)
        return _turn_natively(slope, d_x, cos, -sin), None, None


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turn(upstream[0], cos, -sin), None, None
