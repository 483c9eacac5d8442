"""Linear layers on CPUs: the weights, held in fp32, are cast to bf16 for each product.

Autograd keeps what a product was made of, which would be a copy of every weight in bf16 from the forward pass
to the backward pass. All functions here keep the weight itself, which is there anyway, and cast it again.

`linears` are for layers that share their input, with the gradient of their weights made the fast way. That
is a product over all tokens, d_y^T x. The library that multiplies bf16 on CPUs takes its left side by rows,
and turns it around block by block, again and again: with 4096 rows, 256 and 768 columns such products ran at
half the speed of the others on two cores with matrix units (Sapphire Rapids: 380 against 720 GFLOP/s), and at
six sevenths with AVX512-BF16 alone (Zen 5: 740 against 870). Here the smaller of the two sides is turned
around once (`tiles.cpp`), which gives the gradient or its transpose; turning that is part of making it fp32.
Layers that share their input share its turning too, and the gradient of the input is summed by the products
themselves.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from modelwright.kernels import native, tiles


def usable(x: Tensor, *weights: Tensor) -> bool:
    """Whether `linears` can work on these, and pays: bf16 on a CPU that multiplies it, weights that learn."""
    if x.dtype != torch.bfloat16 or not torch.is_grad_enabled() or not native.plain(x, *weights):
        return False
    learn = all(weight.requires_grad and weight.dtype == torch.float32 for weight in weights)
    return learn and tiles.library() is not None


def recasts(x: Tensor, weight: Tensor) -> bool:
    """Whether `recast` can work on these, and pays: bf16 on a CPU, where a cast costs little beside the
    product, and a weight in fp32."""
    if x.dtype != torch.bfloat16 or not torch.is_grad_enabled() or not native.plain(x, weight):
        return False
    return weight.dtype == torch.float32 and len(weight) > 0 and x.ndim > 1


def recast(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(..., in) through weight (out, in) and a bias (out,) in x's format: the same as `reference`, forward
    and backward, to the bit."""
    return _Recast.apply(x, weight, bias)  # type: ignore[no-any-return]


def reference(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The plain version of `recast`, of which autograd keeps the cast weight."""
    return F.linear(x, weight.to(x.dtype), bias)


def linears(x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
    """(..., in) through weights (out, in): one (..., out) for each."""
    return _Linears.apply(x, *weights)  # type: ignore[no-any-return]


def add_weight_gradient(total: Tensor, slope: Tensor, x: Tensor) -> None:
    """total (out, in), fp32, += slope^T x from (N, out) and (N, in), by whichever way is quicker here."""
    narrow = x.dtype == torch.bfloat16 and slope.shape[1] >= x.shape[1]
    if narrow and total.is_contiguous() and native.plain(slope, x, total) and tiles.has_unit():
        tiles.turned_wide(tiles.turned(x.contiguous()) @ slope, total)
    else:
        total += slope.T @ x


def weight_gradient(slope: Tensor, x: Tensor, x_turned: Tensor | None = None) -> Tensor:
    """slope^T x in fp32, (out, in), from (N, out) and (N, in) in bf16; `x_turned` is (in, N)."""
    if slope.shape[1] < x.shape[1]:
        return (tiles.turned(slope) @ x).float()
    return tiles.turned_wide((tiles.turned(x) if x_turned is None else x_turned) @ slope)


class _Recast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight.to(x.dtype), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        slope = upstream[0].reshape(-1, len(weight))
        d_x = (slope @ weight.to(x.dtype)).view_as(x) if of_x else None
        d_weight = (slope.T @ x.reshape(-1, x.shape[-1])).float() if of_weight else None
        return d_x, d_weight, slope.sum(0) if of_bias else None


class _Linears(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, *weights)
        return tuple(x @ weight.to(x.dtype).T for weight in weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        rows = x.reshape(-1, x.shape[-1]).contiguous()
        slopes = [slope.reshape(-1, slope.shape[-1]).contiguous() for slope in upstream]
        turned = tiles.turned(rows) if any(slope.shape[1] >= rows.shape[1] for slope in slopes) else None
        d_weights = [weight_gradient(slope, rows, turned) for slope in slopes]
        if not ctx.needs_input_grad[0]:
            return None, *d_weights
        d_x = slopes[0] @ weights[0].to(x.dtype)
        for slope, weight in zip(slopes[1:], weights[1:], strict=True):
            d_x.addmm_(slope, weight.to(x.dtype))
        return d_x.view_as(x), *d_weights
