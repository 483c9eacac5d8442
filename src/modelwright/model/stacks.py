"""Stacks of experts that are not trained themselves: held in a smaller format, and with a low-rank change of
each expert that is trained (LoRA, arXiv 2106.09685; for the experts of a mixture as for any other matrix).

    held      y = W_e x for the rows of expert e, whose weights are made when it has any
    changed   y = W_e x + s B_e A_e x, all experts' changes in two grouped products

Shapes: E experts, M rows sorted by expert, `sizes` (E,) of each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from modelwright.kernels import low_rank
from modelwright.kernels.grouped import grouped_linear
from modelwright.model.low_rank import Adaptable
from modelwright.model.moe import StackedLinear


class QuantizedStack(nn.Module):
    """E linear layers of a smaller format. Memory holds one expert's weights in full at a time."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.experts = nn.ModuleList(layers)

    @torch.compiler.disable  # shapes depend on the routing
    def forward(self, rows: Tensor, sizes: Tensor) -> Tensor:
        """(M, in) rows sorted by expert -> (M, out)."""
        made = [
            low_rank.frozen(part, partial(expert.weight_in, rows.dtype))  # type: ignore[operator]
            for part, expert in zip(rows.split(sizes.tolist()), self.experts, strict=True)
            if len(part)
        ]
        return torch.cat(made)

    def weight_in(self, dtype: torch.dtype) -> Tensor:
        """(E, out, in) what the levels stand for."""
        return torch.stack([expert.weight_in(dtype) for expert in self.experts])  # type: ignore[operator]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(E, out, in)."""
        first = self.experts[0]
        assert isinstance(first, Adaptable)
        return len(self.experts), first.out_features, first.in_features


class LowRankStack(nn.Module):
    """A stack, changed: each expert by A and B of its own."""

    def __init__(self, base: StackedLinear | QuantizedStack, rank: int, scale: float) -> None:
        super().__init__()
        self.base, self.scale = base.requires_grad_(False), scale
        experts, out_features, in_features = shape_of(base)
        device = next(iter(base.state_dict().values())).device
        self.a = nn.Parameter(torch.empty(experts, rank, in_features, device=device))
        self.b = nn.Parameter(torch.zeros(experts, out_features, rank, device=device))

    def forward(self, rows: Tensor, sizes: Tensor) -> Tensor:
        """(M, in) rows sorted by expert -> (M, out)."""
        inner = grouped_linear(rows, self.a, sizes)
        return self.base(rows, sizes) + grouped_linear(inner, self.b, sizes) * self.scale

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        """A uniform within 1 / sqrt(in), as beside any other matrix; B stays zero."""
        bound = 1 / math.sqrt(self.a.shape[-1])
        self.a.copy_(torch.empty(self.a.shape).uniform_(-bound, bound, generator=generator))


def shape_of(stack: StackedLinear | QuantizedStack) -> tuple[int, int, int]:
    """(E, out, in)."""
    if isinstance(stack, QuantizedStack):
        return stack.shape
    experts, out_features, in_features = stack.weight.shape
    return experts, out_features, in_features
