"""Products with frozen weights, and with a low-rank change of them that learns: y = W x + scale x B A x.

A frozen weight has no gradient, so that nothing is kept for one, and its own values need not be kept either:
whoever has it in a smaller format gives a function that makes it, which is called again in the backward pass.
Layers that share their input share its product with A and the gradient of A too, and the gradient of the
input is summed by the products themselves. `reference` is the plain version that all of it is tested against.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from modelwright.kernels import native, tiles
from modelwright.kernels.linear import weight_gradient

MakeWeight = Callable[[], Tensor]
"""Gives a frozen weight, (out, in), in the format of the products."""


@dataclass(frozen=True, slots=True)
class InParts:
    """A frozen weight of which no more than a part has to be there at a time."""

    make: Callable[[int], Iterable[Tensor]]
    """Axis -> the weight in parts, in order: 0 for parts of rows (outputs), 1 for columns (inputs)."""
    outputs: int
    """Rows of the whole."""


Frozen = MakeWeight | InParts


def reference(x: Tensor, weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """(..., in) through weight (out, in), a (r, in) and b (out, r): (..., out)."""
    return F.linear(x, weight) + F.linear(F.linear(x, a.to(x.dtype)), b.to(x.dtype)) * scale


def frozen(x: Tensor, weight: MakeWeight, bias: Tensor | None = None) -> Tensor:
    """(..., in) -> (..., out). A compiler sees through it, and keeps no weight either."""
    return _Frozen.apply(x, weight, bias)  # type: ignore[no-any-return]


def adapted(
    x: Tensor,
    layers: Sequence[tuple[Frozen, Tensor | None]],
    changes: Sequence[tuple[Tensor, Tensor, float]],
) -> tuple[Tensor, ...]:
    """`reference` for layers that share x: frozen weight and bias, and (a, b, scale), of each."""
    factors = [factor for a, b, _ in changes for factor in (a, b)]
    return _Adapted.apply(x, layers, [scale for *_, scale in changes], *factors)  # type: ignore[no-any-return]


class _Frozen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: MakeWeight, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        return F.linear(x, weight(), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        return upstream[0] @ ctx.weight(), None, None


class _Adapted(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        layers: Sequence[tuple[Frozen, Tensor | None]],
        scales: Sequence[float],
        *factors: Tensor,
    ) -> tuple[Tensor, ...]:
        rows = x.reshape(-1, x.shape[-1])
        downs, ups = _cast(factors, scales, x.dtype)
        inner = rows @ torch.cat(downs).T
        parts = inner.split([len(down) for down in downs], dim=1)
        outputs = [_product(rows, weight, bias) for weight, bias in layers]
        for output, part, up in zip(outputs, parts, ups, strict=True):
            output.addmm_(part, up.T)
        ctx.save_for_backward(x, inner, *factors)
        ctx.weights, ctx.scales = [weight for weight, _ in layers], scales
        return tuple(output.view(*x.shape[:-1], -1) for output in outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, inner, *factors = ctx.saved_tensors
        rows = x.reshape(-1, x.shape[-1])
        slopes = [slope.reshape(-1, slope.shape[-1]).contiguous() for slope in upstream]
        downs, ups = _cast(factors, ctx.scales, x.dtype)
        ranks = [len(down) for down in downs]
        d_inner = torch.cat([slope @ up for slope, up in zip(slopes, ups, strict=True)], dim=1)
        d_downs = _over_rows(d_inner, rows).split(ranks)
        parts = zip(slopes, inner.split(ranks, dim=1), ctx.scales, strict=True)
        d_ups = [_over_rows(slope, part.contiguous()).mul_(scale) for slope, part, scale in parts]
        d_factors = [d_factor for pair in zip(d_downs, d_ups, strict=True) for d_factor in pair]
        if not ctx.needs_input_grad[0]:
            return None, None, None, *d_factors
        d_x = d_inner @ torch.cat(downs)
        for slope, weight in zip(slopes, ctx.weights, strict=True):
            _add_product(d_x, slope, weight)
        return d_x.view_as(x), None, None, *d_factors


def _product(rows: Tensor, weight: Frozen, bias: Tensor | None) -> Tensor:
    """(N, in) -> (N, out)."""
    if not isinstance(weight, InParts):
        return F.linear(rows, weight(), bias)
    product, start = rows.new_empty(len(rows), weight.outputs), 0
    for part in weight.make(0):
        end = start + len(part)
        if bias is None:
            torch.mm(rows, part.T, out=product[:, start:end])
        else:
            torch.addmm(bias[start:end], rows, part.T, out=product[:, start:end])
        start = end
    return product


def _add_product(total: Tensor, slope: Tensor, weight: Frozen) -> None:
    """total (N, in) += slope (N, out) @ weight."""
    start = 0
    for part in weight.make(1) if isinstance(weight, InParts) else (weight(),):
        total[:, start : start + part.shape[1]].addmm_(slope, part)
        start += part.shape[1]


def _cast(
    factors: Sequence[Tensor], scales: Sequence[float], dtype: torch.dtype
) -> tuple[list[Tensor], list[Tensor]]:
    """All A, and all B with their scale, in the format of the products."""
    ups = [(b * scale).to(dtype) for b, scale in zip(factors[1::2], scales, strict=True)]
    return [a.to(dtype) for a in factors[0::2]], ups


def _over_rows(left: Tensor, right: Tensor) -> Tensor:
    """left^T right in fp32, (m, n), from dense (N, m) and (N, n)."""
    if left.dtype == torch.bfloat16 and native.plain(left, right) and tiles.has_unit():
        return weight_gradient(left, right)
    return (left.T @ right).float()
