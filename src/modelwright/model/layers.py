"""The small parts: a linear layer that multiplies in its input's format or in 8 bits, RMSNorm, and
gated feed-forward networks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelwright.kernels import fp8, linear
from modelwright.kernels.rms_norm import rms_norm
from modelwright.kernels.swiglu import swiglu
from modelwright.model import low_rank
from modelwright.model.low_rank import LowRankLinear


class Linear(nn.Linear):
    """nn.Linear whose weights are cast to the input's dtype where they are used.

    Weights stay in fp32 for the optimizer; activations decide the format of the product. Explicit,
    so that no autocast context decides behind the reader's back.
    """

    copy: Tensor | None
    """(out, in) the weights in the format of products, where a step casts them once for all micro-batches.
    Used while gradients are recorded, and for nothing else."""
    eight_bits: bool
    """Whether training multiplies in 8 bits (kernels/fp8.py). Answers and measurements do not."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        self.register_buffer("copy", None, persistent=False)
        self.eight_bits = False

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        if self._is_simple() and linear.usable(input, self.weight):
            return linear.linears(input, self.weight)[0]
        bias = None if self.bias is None else self.bias.to(input.dtype)
        if self.copy is None and not self.eight_bits and linear.recasts(input, self.weight):
            return linear.recast(input, self.weight, bias)
        if not torch.is_grad_enabled():
            return F.linear(input, self.weight.to(input.dtype), bias)
        used = self.weight if self.copy is None else _Copied.apply(self.weight, self.copy)
        if self.eight_bits and fp8.fits(input, used):
            return fp8.linear(input, used, bias)
        return F.linear(input, used.to(input.dtype), bias)

    def weight_in(self, dtype: torch.dtype) -> Tensor:
        """(out, in) in a format."""
        return self.weight.to(dtype)

    def _is_simple(self) -> bool:
        return self.bias is None and self.copy is None and not self.eight_bits

    def can_share(self) -> bool:
        """Whether others may do its product with theirs: nothing is added, and nobody watches it."""
        watched = self._forward_pre_hooks, self._forward_hooks, self._backward_pre_hooks, self._backward_hooks
        return type(self) is Linear and self._is_simple() and not any(watched)


def project(x: Tensor, *layers: nn.Module) -> tuple[Tensor, ...]:
    """x (..., in) through layers that share it; where that is quicker (kernels/linear.py), in one go."""
    weights = [layer.weight for layer in layers if isinstance(layer, Linear) and layer.can_share()]
    if len(weights) == len(layers) and linear.usable(x, *weights):
        return linear.linears(x, *weights)
    changed = [layer for layer in layers if isinstance(layer, LowRankLinear)]
    if len(changed) == len(layers):
        return low_rank.together(x, changed)
    return tuple(layer(x) for layer in layers)


class _Copied(torch.autograd.Function):
    """A weight as its copy in another format: what `weight.to` returns, and how it passes gradients back."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, copy: Tensor) -> Tensor:
        ctx.dtype = weight.dtype
        return copy.detach()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        return upstream[0].to(ctx.dtype), None


class RMSNorm(nn.Module):
    """Root mean square normalisation (arXiv 1910.07467), computed in fp32."""

    def __init__(self, size: int, eps: float, *, centred: bool = False) -> None:
        """`centred`: the weights are held less one."""
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size) if centred else torch.ones(size))
        self.eps, self.centred = eps, centred

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis."""
        return rms_norm(x, self.weight.float() + 1 if self.centred else self.weight, self.eps)


class GatedFeedForward(nn.Module):
    """down(activation(gate(x)) * up(x)); which activation, subclasses say (arXiv 2002.05202)."""

    def __init__(self, hidden_size: int, intermediate_size: int, *, bias: bool = False) -> None:
        super().__init__()
        self.gate_proj = Linear(hidden_size, intermediate_size, bias=bias)
        self.up_proj = Linear(hidden_size, intermediate_size, bias=bias)
        self.down_proj = Linear(intermediate_size, hidden_size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        gate, up = project(x, self.gate_proj, self.up_proj)
        return self.down_proj(self.gated(gate, up))

    def gated(self, gate: Tensor, up: Tensor) -> Tensor:
        """activation(gate) * up."""
        raise NotImplementedError


class SwiGLU(GatedFeedForward):
    """With SiLU."""

    def gated(self, gate: Tensor, up: Tensor) -> Tensor:
        """silu(gate) * up."""
        return swiglu(gate, up)


class GeGLU(GatedFeedForward):
    """With GELU, approximated by tanh (arXiv 1606.08415)."""

    def gated(self, gate: Tensor, up: Tensor) -> Tensor:
        """gelu(gate) * up."""
        return F.gelu(gate, approximate="tanh") * up
