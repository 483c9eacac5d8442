"""The compiled step of `decoder.cpp`: weights packed for it, and the structures that describe a step.

Where there is no compiler, `library` is None and decoding takes the plain path (inference/runner.py).
"""

from __future__ import annotations

import ctypes
from ctypes import Structure, c_float, c_int64, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from modelwright.base.native import find

SOURCE = Path(__file__).with_name("decoder.cpp")
TILE = 32
"""Rows and columns of a weight come in multiples of this, and so do positions: the size of a cache block."""
HALF = TILE // 2
FLOAT32, BFLOAT16, INT8, INT4, INT8_FOURS = range(5)
"""Kinds of tiles, as `decoder.cpp` numbers them."""


@cache
def library() -> ctypes.CDLL | None:
    """The compiled functions; None where they cannot be built."""
    found = find(SOURCE, {"prepare": "n>n", "has_unit": ">n", "step": "ppnn>n"}, ("-fopenmp",))
    if found is not None:
        found.prepare(1)
    return found


def has_unit() -> bool:
    """Whether bf16 and int8 go through a matrix unit here."""
    found = library()
    return found is not None and bool(found.has_unit())


@dataclass(frozen=True, slots=True)
class Packed:
    """A weight as strips (see decoder.cpp), with what belongs to it. Holds the memory that is pointed to."""

    data: Tensor
    kind: int
    shape: torch.Size
    """(out, in)."""
    scales: Tensor | None = None
    """fp32; int8: (padded out,), int4: (strips, groups, 32)."""
    bias: Tensor | None = None
    """(padded out,) fp32."""
    group: int = TILE

    def described(self) -> MatrixStruct:
        """What the compiled code is told."""
        scales, bias = _address(self.scales), _address(self.bias)
        return MatrixStruct(self.data.data_ptr(), scales, bias, *self.shape, self.group, self.kind)


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _halves(weight: Tensor) -> Tensor:
    """(out, in) padded with zeros and cut: (strips, 2 halves, 16 columns, tiles, 32 of k)."""
    rows, columns = weight.shape
    whole = weight.new_zeros(-(-rows // TILE) * TILE, -(-columns // TILE) * TILE)
    whole[:rows, :columns] = weight
    return whole.view(-1, 2, HALF, whole.shape[1] // TILE, TILE)


def pack_floats(weight: Tensor, bias: Tensor | None = None) -> Packed:
    """An (out, in) weight in fp32 or bf16."""
    cut = _halves(weight)
    if weight.dtype == torch.float32:
        data, kind = cut.permute(0, 3, 1, 4, 2), FLOAT32  # k by columns
    else:
        data, kind = cut.unflatten(-1, (HALF, 2)).permute(0, 3, 1, 4, 2, 5), BFLOAT16  # pairs in k by columns
    return Packed(data.contiguous(), kind, weight.shape, bias=_padded(bias))


def pack_bytes(levels: Tensor, scales: Tensor, bias: Tensor | None = None, *, fours: bool = False) -> Packed:
    """(out, in) int8 levels with one scale per output, (out, 1). `fours`: for the matrix unit."""
    if fours:
        wide = levels.new_zeros(levels.shape[0], -(-levels.shape[1] // 64) * 64)
        wide[:, : levels.shape[1]] = levels
        cut = _halves(wide).flatten(3).unflatten(-1, (-1, 16, 4))
        data, kind = cut.permute(0, 3, 1, 4, 2, 5), INT8_FOURS  # of 64 in k: 16 fours by columns
    else:
        cut = _halves(levels).unflatten(-1, (HALF, 2))
        data, kind = cut.permute(0, 3, 1, 4, 5, 2), INT8  # of each 16 pairs all even ones, then all odd ones
    return Packed(data.contiguous(), kind, levels.shape, _padded(scales.flatten()), _padded(bias))


def pack_nibbles(levels: Tensor, scales: Tensor, bias: Tensor | None = None) -> Packed:
    """(out, in) int8 levels from -8 to 7, with one scale per output and group of inputs, (out, groups)."""
    group = levels.shape[1] // scales.shape[1]
    if group % TILE or levels.shape[1] % group:
        raise ValueError(
            f"groups of {group} inputs, expected a multiple of {TILE} that divides {levels.shape[1]}"
        )
    cut = (_halves(levels) + 8).to(torch.int32).unflatten(-1, (4, 4, 2))
    # A word of 16 bits has four neighbouring pairs: (strips, tiles, halves, 4, columns, 2), one nibble each.
    words = cut.permute(5, 0, 3, 1, 4, 2, 6)
    shifted = sum(words[j] << (4 * j) for j in range(4))
    assert isinstance(shifted, Tensor)
    data = (shifted - ((shifted >> 15) << 16)).to(torch.int16).contiguous()
    strips = -(-levels.shape[0] // TILE)
    spread = scales.new_zeros(strips * TILE, scales.shape[1], dtype=torch.float32)
    spread[: levels.shape[0]] = scales
    by_strip = spread.view(strips, TILE, -1).transpose(1, 2).contiguous()
    return Packed(data, INT4, levels.shape, by_strip, _padded(bias), group)


def _padded(vector: Tensor | None) -> Tensor | None:
    return None if vector is None else pack_vector(vector)


def pack_vector(vector: Tensor) -> Tensor:
    """(n,) numbers in fp32, padded with zeros."""
    whole = torch.zeros(-(-len(vector) // TILE) * TILE)
    whole[: len(vector)] = vector.float()
    return whole


def interleaved(gate: Tensor, up: Tensor) -> Tensor:
    """Rows of two (n, ...) tensors in turns of 16, each padded to a multiple of that: what `gate_up`
    holds."""
    rows = -(-len(gate) // HALF)
    whole = gate.new_zeros(2, rows * HALF, *gate.shape[1:])
    whole[0, : len(gate)], whole[1, : len(up)] = gate, up
    return whole.view(2, rows, HALF, *gate.shape[1:]).transpose(0, 1).flatten(0, 2)


class MatrixStruct(Structure):
    """`Matrix` of decoder.cpp."""

    _fields_ = [
        *((name, c_void_p) for name in ("data", "scales", "bias")),
        *((name, c_int64) for name in ("out", "in", "group", "kind")),
    ]


class AdapterStruct(Structure):
    """`Adapter`."""

    _fields_ = [("down", MatrixStruct), ("up", MatrixStruct), ("gain", c_void_p)]


class ExpertStruct(Structure):
    """`Expert`."""

    _fields_ = [("gate_up", MatrixStruct), ("down", MatrixStruct)]


class LayerStruct(Structure):
    """`Layer`."""

    _fields_ = [
        *((f"{name}_norm", c_void_p) for name in ("attention", "feed_forward", "query", "key")),
        *((name, MatrixStruct) for name in ("qkv", "out", "gate_up", "down")),
        ("adapters", c_void_p),
        ("router", MatrixStruct),
        ("experts", c_void_p),
    ]


class ModelStruct(Structure):
    """`Model`."""

    _fields_ = [
        *(
            (name, c_int64)
            for name in ("layers", "hidden", "heads", "kv_heads", "head_dim", "inner", "vocabulary")
        ),
        *(
            (name, c_int64)
            for name in ("window", "gelu", "experts", "asked", "expert_inner", "normalise", "rank")
        ),
        ("epsilon", c_float),
        ("embedding_scale", c_float),
        ("layer", ctypes.POINTER(LayerStruct)),
        ("embedding", c_void_p),
        ("norm", c_void_p),
        ("head", MatrixStruct),
        *((name, c_void_p) for name in ("cosine", "sine", "keys", "values", "key_scales", "value_scales")),
        ("blocks", c_int64),
        ("cache_kind", c_int64),
    ]


class StepStruct(Structure):
    """`Step`."""

    _fields_ = [
        *((name, c_int64) for name in ("rows", "sequences", "outputs", "table_width")),
        *(
            (name, c_void_p)
            for name in ("ids", "positions", "first_row", "count", "adapter", "tables", "output_rows")
        ),
        ("hidden", c_void_p),
        ("logits", c_void_p),
    ]


def run(model: ModelStruct, what: StepStruct, *, narrow: bool) -> None:
    """One step; the caller has made sure of every shape. `narrow` multiplies bf16, else fp32."""
    found = library()
    assert found is not None
    if not found.step(ctypes.byref(model), ctypes.byref(what), int(narrow), torch.get_num_threads()):
        raise MemoryError(f"no memory, or no threads, for a step of {what.rows} tokens")
