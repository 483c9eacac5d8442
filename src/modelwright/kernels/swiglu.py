"""SwiGLU's gate (arXiv 2002.05202), silu(gate) * up, with its gradient in one pass.

`reference` is the plain version that the fused one is tested against, and what runs where the fused one
cannot.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from modelwright.kernels import native


def reference(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, elementwise."""
    return F.silu(gate) * up


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """The same as `reference`, differentiable."""
    if native.usable(gate, up) and gate.shape == up.shape:
        return _SwiGLU.apply(gate, up)  # type: ignore[no-any-return]
    return reference(gate, up)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        ctx.save_for_backward(gate, up)
        mixed = torch.empty_like(gate)
        native.call("swiglu", gate.dtype, gate, up, mixed, gate.numel())
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        slope = upstream[0].contiguous()
        d_gate, d_up = torch.empty_like(gate), torch.empty_like(up)
        native.call("swiglu_backward", gate.dtype, gate, up, slope, d_gate, d_up, gate.numel())
        return d_gate, d_up
