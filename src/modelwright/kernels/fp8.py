"""Linear layers in 8 bits: operands in e4m3, gradients in e5m2 (arXiv 2209.05433), one scale for each tensor,
found anew at each use ("dynamic, tensorwise", as in nanochat and torchao).

A tensor is divided by its largest value over the largest of the format, rounded, multiplied in 8 bits with
sums in more, and multiplied back. That is twice bf16's peak, less the passes that find the scales, so it pays
for large matrices only: nanochat measured 17 % more tokens/s at 26 layers, and fewer at 12. Of the three
products of a layer the forward one may add up in fewer bits (`use_fast_accum`).

The backward pass rounds the weight again instead of keeping its 8 bits: the weight is there anyway, and where
processes hold pieces of it (FSDP), it is gathered again, while its 8 bits would stay whole in each of them.

`reference_product` is the plain version: it multiplies the rounded numbers in fp32. It is what runs where
there is no such hardware, for tests alone: nothing is saved there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

OPERAND, GRADIENT = torch.float8_e4m3fn, torch.float8_e5m2
ALIGNMENT = 16
"""What every side of a product must be a multiple of."""
SMALLEST = 1e-30
"""Least scale: a tensor of zeros has none."""


def quantize(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(8 bits of x over its scale, the scale () in fp32). What is not finite stays so."""
    scale = (x.abs().amax().float() / torch.finfo(dtype).max).clamp(min=SMALLEST)
    return over(x, scale, dtype), scale


def over(x: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """8 bits of x over a scale."""
    largest = torch.finfo(dtype).max
    return (x.float() / scale).clamp(-largest, largest).to(dtype)


def fits(x: Tensor, weight: Tensor) -> bool:
    """Whether (..., K) times (N, K) can be multiplied in 8 bits, forward and backward."""
    return all(size % ALIGNMENT == 0 for size in (x.numel() // x.shape[-1], *weight.shape))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(..., K) times the transpose of (N, K), both in 8 bits, plus (N,) -> (..., N) in the format of x. The
    weight may be held in another format: it is brought into that of x first."""
    product = _Linear.apply(x.reshape(-1, x.shape[-1]), weight).view(*x.shape[:-1], -1)
    return product if bias is None else product + bias


def reference_product(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, dtype: torch.dtype, fast: bool = False
) -> Tensor:
    """(M, K) x (K, N), both in 8 bits, with their scales -> (M, N) in `dtype`."""
    return (a.float() @ b.float() * (scale_a * scale_b)).to(dtype)


def product(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, dtype: torch.dtype, fast: bool = False
) -> Tensor:
    """The same on a GPU, which wants the rows of `a` and the columns of `b` in one piece."""
    if not a.is_cuda:
        return reference_product(a, b, scale_a, scale_b, dtype)
    multiply = torch._scaled_mm  # pyright: ignore[reportPrivateImportUsage]
    return multiply(a, b, scale_a=scale_a, scale_b=scale_b, out_dtype=dtype, use_fast_accum=fast)


def by_columns(x: Tensor) -> Tensor:
    """The same matrix with its columns in one piece."""
    return x.t().contiguous().t()


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        x8, x_scale = quantize(x, OPERAND)
        w8, w_scale = quantize(weight.to(x.dtype), OPERAND)
        ctx.save_for_backward(x8, x_scale, weight, w_scale)
        return product(x8, w8.t(), x_scale, w_scale, x.dtype, fast=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor]:
        x8, x_scale, weight, w_scale = ctx.saved_tensors
        dtype = upstream[0].dtype
        w8 = over(weight.to(dtype), w_scale, OPERAND)
        g8, g_scale = quantize(upstream[0], GRADIENT)
        g8 = g8.contiguous()
        d_x = product(g8, by_columns(w8), g_scale, w_scale, dtype)
        d_weight = product(g8.t().contiguous(), by_columns(x8), g_scale, x_scale, dtype)
        return d_x, d_weight.to(weight.dtype)
