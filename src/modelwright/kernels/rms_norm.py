"""RMSNorm (arXiv 1910.07467) with its gradient written out.

Composed of plain operations, autograd keeps and walks over a dozen tensors of the input's size; on a
CPU, where these walks are bound by memory, normalising cost more than attention. The gradient in one
piece needs about half of them, and compiled (`native.cpp`) two. `reference` is the plain version that
both are tested against.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from modelwright.kernels import native


def reference(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """weight * x / sqrt(mean(x^2) + eps) over the last axis, computed in fp32."""
    wide = x.float()
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (wide * weight.float()).to(x.dtype)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """(..., D) with weight (D,): the same as `reference`, differentiable."""
    if native.usable(x) and native.usable(weight) and weight.dtype == torch.float32 and _fits(x, weight):
        return _Native.apply(x, weight, eps)  # type: ignore[no-any-return]
    return _RMSNorm.apply(x, weight, eps)  # type: ignore[no-any-return]


def _fits(x: Tensor, weight: Tensor) -> bool:
    return weight.shape == x.shape[-1:] and weight.is_contiguous()


class _Native(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        x = x.contiguous()
        size = x.shape[-1]
        rows = x.numel() // size
        y, scale = torch.empty_like(x), torch.empty(rows, dtype=torch.float32, device=x.device)
        native.call("rms_norm", x.dtype, x, weight, y, scale, rows, size, eps)
        ctx.save_for_backward(x, weight, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        slope = upstream[0].contiguous()
        d_x, d_weight = torch.empty_like(x), torch.empty_like(weight)
        sizes = scale.numel(), x.shape[-1]
        native.call("rms_norm_backward", x.dtype, x, weight, scale, slope, d_x, d_weight, *sizes)
        return d_x, d_weight, None


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = torch.rsqrt(norm.square() / x.shape[-1] + eps)
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight.float()).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        wide, slope, gain = x.float(), upstream[0].float(), weight.float()
        product = slope * wide
        d_weight = scale.flatten() @ product.flatten(0, -2)
        shared = (product @ gain / x.shape[-1]).unsqueeze(-1) * scale.pow(3)
        d_x = (slope * gain).mul_(scale).addcmul_(wide, shared, value=-1.0)
        return d_x.to(x.dtype), d_weight.to(weight.dtype), None
