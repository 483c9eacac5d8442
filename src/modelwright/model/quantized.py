"""Linear layers whose weights are 8-bit integers with one scale per output channel.

Weight-only: activations keep their format, so nothing has to be calibrated and the only error is the
rounding of the weights, at most half a scale each (see compression/quantize.py).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelwright.model.moe import StackedLinear

PACKED_ROWS = 8
"""Up to this many rows (decoding) torch's packed kernel wins, since reading the weights is what takes
the time; above it (prefill) the plain product is faster. Measured on a CPU with AVX512."""


_packed_product: Any = getattr(torch, "_weight_int8pack_mm", None)


class Int8Linear(nn.Module):
    """y = (x @ weight.T) * scale + bias, with weight (out, in) int8 and scale (out, 1).

    The names of the buffers are those of the compressed-tensors format, so that a `state_dict` is a
    checkpoint that other tools read.
    """

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor | None

    def __init__(self, in_features: int, out_features: int, bias: bool = False) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.register_buffer("weight", torch.zeros(out_features, in_features, dtype=torch.int8))
        self.register_buffer("weight_scale", torch.ones(out_features, 1))
        self.register_buffer("bias", torch.zeros(out_features) if bias else None)

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) -> (..., out), in the input's dtype."""
        rows = input.numel() // self.in_features
        if 0 < rows <= PACKED_ROWS and input.device.type == "cpu" and has_packed_kernel(input.dtype):
            output = self._packed(input)
        else:
            output = self.reference(input)
        return output if self.bias is None else output + self.bias.to(input.dtype)

    def reference(self, input: Tensor) -> Tensor:
        """The product without bias, plainly. int8 is exact in every float type, so the scale can be
        applied to the output: fewer multiplications, and fewer roundings in bf16."""
        return F.linear(input, self.weight.to(input.dtype)) * self.weight_scale.to(input.dtype).T

    def _packed(self, input: Tensor) -> Tensor:
        flat = input.reshape(-1, self.in_features)
        scales = self.weight_scale.flatten().to(input.dtype)
        return _packed_product(flat, self.weight, scales).view(*input.shape[:-1], -1)

    def extra_repr(self) -> str:
        """For `print(model)`."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        )


class Int8StackedLinear(nn.Module):
    """A `StackedLinear` in int8: weight (E, out, in) and weight_scale (E, out, 1)."""

    weight: Tensor
    weight_scale: Tensor

    def __init__(self, experts: int, in_features: int, out_features: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(experts, out_features, in_features, dtype=torch.int8))
        self.register_buffer("weight_scale", torch.ones(experts, out_features, 1))

    def forward(self, rows: Tensor, sizes: Tensor) -> Tensor:
        """(M, in) rows sorted by expert, `sizes` (E,) of each -> (M, out), in the rows' dtype."""
        found: list[Tensor] = []
        for part, weight, scale in zip(
            rows.split(sizes.tolist()), self.weight, self.weight_scale, strict=True
        ):
            if len(part):  # an expert that nobody asked is not even cast
                found.append(F.linear(part, weight.to(rows.dtype)) * scale.to(rows.dtype).T)
        return torch.cat(found)


@cache
def has_packed_kernel(dtype: torch.dtype) -> bool:
    """Whether this torch multiplies `dtype` by packed int8 on the CPU. The function is private to torch,
    so its absence, or a change of its arguments, means "no"."""
    if _packed_product is None:
        return False
    try:
        _packed_product(
            torch.zeros(1, 32, dtype=dtype),
            torch.zeros(32, 32, dtype=torch.int8),
            torch.zeros(32, dtype=dtype),
        )
    except (RuntimeError, TypeError, NotImplementedError):
        return False
    return True


def replace_linears(module: nn.Module, names: frozenset[str], prefix: str = "") -> None:
    """Put an empty int8 layer in the place of each linear one named in `names` (dotted), in place."""
    for name, child in list(module.named_children()):
        full = f"{prefix}{name}"
        if isinstance(child, StackedLinear):
            if full in names:
                experts, out_features, in_features = child.weight.shape
                setattr(module, name, Int8StackedLinear(experts, in_features, out_features))
        elif not isinstance(child, nn.Linear):
            replace_linears(child, names, f"{full}.")
        elif full in names:
            empty = Int8Linear(child.in_features, child.out_features, child.bias is not None)
            setattr(module, name, empty)
