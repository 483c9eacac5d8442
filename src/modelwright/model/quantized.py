"""Linear layers whose weights are integers: of 8 bits with one scale per output channel, or of 4 bits with
one scale for each group of inputs. weight = level x scale.

Weight-only: activations keep their format, so nothing has to be calibrated and the only error is the
rounding of the weights (compression/quantize.py says how large it is).

The names of the buffers are those of the compressed-tensors format, so that a `state_dict` is a checkpoint
that other tools read. Who multiplies by kernels of his own asks for `levels` and `scales`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelwright.base.errors import UserError
from modelwright.kernels import low_rank
from modelwright.model.moe import StackedLinear

PACKED_ROWS = 8
"""Up to this many rows (decoding) torch's packed kernel wins, since reading the weights is what takes
the time; above it (prefill) the plain product is faster. Measured on a CPU with AVX512."""
GROUP = 32
"""The fewest inputs that share a scale in 4 bits, as in GGUF's Q4_0; larger groups are multiples of it."""
WORD = 8
"""4-bit integers in one of 32."""
ZERO = 8
"""What is stored of a 4-bit level is level + 8, so that -8..7 becomes 0..15."""

LEVELS = 127
"""Largest magnitude of a symmetric 8-bit integer; -128 is not used, so that -q exists for every q."""

_packed_product: Any = getattr(torch, "_weight_int8pack_mm", None)


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(..., out, in) floats -> int8 of that shape and (..., out, 1) fp32 scales, |weight - q * scale| <=
    scale / 2.

    A row of zeros gets scale 1, so that nothing is divided by zero. The rounding is done in fp64: in
    fp32 the quotient itself is rounded, and a weight at the midpoint could land on the far side.
    """
    check_finite(weight)
    largest = weight.float().abs().amax(dim=-1, keepdim=True)
    scale = torch.where(largest > 0, largest / LEVELS, torch.ones_like(largest))
    scale = scale.clamp_min(torch.finfo(torch.float32).tiny)
    rounded = torch.round(weight.double() / scale.double()).clamp(-LEVELS, LEVELS)
    return rounded.to(torch.int8), scale


def check_finite(weight: Tensor) -> None:
    """Refuse what has no rounding."""
    if not torch.isfinite(weight).all():
        raise UserError("a weight is not finite: the model diverged in training and cannot be quantized.")


@dataclass(frozen=True, slots=True)
class Scheme:
    """How the weights of a model are rounded."""

    bits: int = 8
    """4 or 8."""
    group: int = GROUP
    """Neighbouring inputs that share a scale, with 4 bits; with 8 a whole row does."""


class _Integers(nn.Module):
    """What layers in 8 and in 4 bits have in common: (out, in) weights, or (E, out, in) of E experts."""

    weight_scale: Tensor

    def levels(self) -> Tensor:
        """(..., out, in) int8."""
        raise NotImplementedError

    def scales(self) -> Tensor:
        """(..., out, groups) fp32; in 8 bits a row is one group."""
        return self.weight_scale.float()

    def weight_in(self, dtype: torch.dtype) -> Tensor:
        """(..., out, in) the weights that the levels stand for."""
        return dequantize(self.levels(), self.scales(), dtype)


class _Int8(_Integers):
    weight: Tensor

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(shape, dtype=torch.int8))
        self.register_buffer("weight_scale", torch.ones(*shape[:-1], 1))

    def levels(self) -> Tensor:
        return self.weight


class _Int4(_Integers):
    weight_packed: Tensor
    """(..., out, in / 8) int32, as `pack` makes it."""
    weight_shape: Tensor
    """(..., 2): out and in, for readers that cannot tell them from the packed ones."""

    def __init__(self, group: int, *shape: int) -> None:
        super().__init__()
        scales = torch.ones(*shape[:-1], shape[-1] // group, dtype=torch.bfloat16)
        for name, tensor in packed_tensors(torch.zeros(shape, dtype=torch.int8), scales).items():
            self.register_buffer(name, tensor)

    def levels(self) -> Tensor:
        return unpack(self.weight_packed)


class Int8Linear(_Int8):
    """y = (x @ weight.T) * scale + bias, with weight (out, in) int8 and scale (out, 1)."""

    bias: Tensor | None

    def __init__(self, in_features: int, out_features: int, bias: bool = False) -> None:
        super().__init__(out_features, in_features)
        self.in_features, self.out_features = in_features, out_features
        self.register_buffer("bias", torch.zeros(out_features) if bias else None)

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) -> (..., out), in the input's dtype."""
        bias = None if self.bias is None else self.bias.to(input.dtype)
        if input.requires_grad and torch.is_grad_enabled():
            return low_rank.frozen(input, partial(self.weight_in, input.dtype), bias)
        rows = input.numel() // self.in_features
        if 0 < rows <= PACKED_ROWS and input.device.type == "cpu" and has_packed_kernel(input.dtype):
            output = self._packed(input)
        else:
            output = self.reference(input)
        return output if bias is None else output + bias

    def reference(self, input: Tensor) -> Tensor:
        """The product without bias, plainly. int8 is exact in every float type, so the scale can be
        applied to the output: fewer multiplications, and fewer roundings in bf16."""
        return F.linear(input, self.weight.to(input.dtype)) * self.weight_scale.to(input.dtype).T

    def _packed(self, input: Tensor) -> Tensor:
        flat = input.reshape(-1, self.in_features)
        scales = self.weight_scale.flatten().to(input.dtype)
        return _packed_product(flat, self.weight, scales).view(*input.shape[:-1], -1)


class Int8StackedLinear(_Int8):
    """A `StackedLinear` in int8: weight (E, out, in) and weight_scale (E, out, 1)."""

    def forward(self, rows: Tensor, sizes: Tensor) -> Tensor:
        """(M, in) rows sorted by expert, `sizes` (E,) of each -> (M, out), in the rows' dtype."""
        parts = zip(rows.split(sizes.tolist()), self.weight, self.weight_scale, strict=True)
        # An expert that nobody asked is not even cast.
        asked = (each for each in parts if len(each[0]))
        return torch.cat([F.linear(x, w.to(x.dtype)) * scale.to(x.dtype).T for x, w, scale in asked])


class Int4Linear(_Int4):
    """y = x @ (levels * scales).T + bias, levels from -8 to 7 and one scale for each `group` inputs.

    The plain product: weights are unpacked whenever they are used, which saves memory (4.5 bits a weight)
    and no time. That takes a kernel which reads them packed.
    """

    bias: Tensor | None

    def __init__(self, in_features: int, out_features: int, group: int, bias: bool = False) -> None:
        super().__init__(group, out_features, in_features)
        self.in_features, self.out_features = in_features, out_features
        self.register_buffer("bias", torch.zeros(out_features) if bias else None)

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) -> (..., out), in the input's dtype."""
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return low_rank.frozen(input, partial(self.weight_in, input.dtype), bias)


class Int4StackedLinear(_Int4):
    """A `StackedLinear` in 4 bits: weight_packed (E, out, in / 8) and weight_scale (E, out, in / group)."""

    def forward(self, rows: Tensor, sizes: Tensor) -> Tensor:
        """(M, in) rows sorted by expert, `sizes` (E,) of each -> (M, out), in the rows' dtype."""
        parts = zip(rows.split(sizes.tolist()), self.weight_packed, self.weight_scale, strict=True)
        asked = (each for each in parts if len(each[0]))
        return torch.cat([F.linear(x, dequantize(unpack(w), scale, x.dtype)) for x, w, scale in asked])


def packed_tensors(levels: Tensor, scales: Tensor) -> dict[str, Tensor]:
    """What a layer in 4 bits holds, from (..., out, in) levels and (..., out, in / group) scales."""
    shape = torch.tensor(levels.shape[-2:]).expand(*levels.shape[:-2], 2)
    return {"weight_packed": pack(levels), "weight_scale": scales, "weight_shape": shape.contiguous()}


def pack(levels: Tensor) -> Tensor:
    """(..., n) int8 from -8 to 7 -> (..., n / 8) int32: eight to a word, the first in the lowest bits."""
    stored = (levels + ZERO).view(torch.uint8)
    return (stored[..., 0::2] | stored[..., 1::2] << 4).contiguous().view(torch.int32)


def unpack(packed: Tensor) -> Tensor:
    """What `pack` was given."""
    pairs = packed.contiguous().view(torch.uint8)
    stored = torch.stack((pairs & 15, pairs >> 4), dim=-1).flatten(-2)
    return stored.view(torch.int8) - ZERO


def dequantize(levels: Tensor, scales: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """(..., out, in) levels, (..., out, n) scales, each for in / n neighbours -> (..., out, in) weights."""
    grouped = levels.to(dtype).unflatten(-1, (scales.shape[-1], -1))
    return (grouped * scales.to(dtype).unsqueeze(-1)).flatten(-2)


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


def scheme_of(model: nn.Module) -> Scheme | None:
    """How a model is quantized; None if it is not."""
    for module in model.modules():
        if isinstance(module, _Int8):
            return Scheme(bits=8)
        if isinstance(module, _Int4):
            return Scheme(4, module.weight_packed.shape[-1] * WORD // module.weight_scale.shape[-1])
    return None


def replace_linears(module: nn.Module, names: frozenset[str], scheme: Scheme, prefix: str = "") -> None:
    """Put an empty quantized layer in the place of each linear one named in `names` (dotted), in place."""
    for name, child in list(module.named_children()):
        full = f"{prefix}{name}"
        if not isinstance(child, nn.Linear | StackedLinear):
            replace_linears(child, names, scheme, f"{full}.")
        elif full in names:
            setattr(module, name, _replacement(child, scheme))


def _replacement(layer: nn.Linear | StackedLinear, scheme: Scheme) -> nn.Module:
    if isinstance(layer, StackedLinear):
        shape = layer.weight.shape
        return Int8StackedLinear(*shape) if scheme.bits == 8 else Int4StackedLinear(scheme.group, *shape)
    sizes, bias = (layer.in_features, layer.out_features), layer.bias is not None
    return Int8Linear(*sizes, bias) if scheme.bits == 8 else Int4Linear(*sizes, scheme.group, bias)
