"""Many small products at once: rows that are sorted by group, each group with a matrix of its own.

A mixture of experts needs it: tokens are sorted by the expert that was chosen for them, and each expert
multiplies its own. `reference` is the plain version, a product and a mask per group over all rows;
`grouped_linear` multiplies each row once, by torch's grouped product (one call for all groups) or by one
call per group.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

ALIGNMENT = 16
"""Bytes that rows of both matrices must be a multiple of for the grouped product."""
STEP = 32
"""Rows by which a group's size grows on a CPU in bf16: oneDNN makes and keeps a program for every size, and
routing makes new ones at each step (600 products of 8 experts: 1,410 MiB and 38 s, with this 398 and 10)."""


def reference(rows: Tensor, weights: Tensor, sizes: Tensor) -> Tensor:
    """(M, K) rows in E groups of `sizes` (E,) one after the other, (E, N, K) weights -> (M, N): each row
    times the transpose of its group's matrix, by as many full products as there are groups."""
    group = torch.repeat_interleave(torch.arange(len(weights), device=rows.device), sizes.long())
    found = rows.new_zeros(rows.shape[0], weights.shape[1])
    for number, weight in enumerate(weights.to(rows.dtype).unbind()):
        found = found + F.linear(rows, weight) * (group == number)[:, None]
    return found


def grouped_linear(rows: Tensor, weights: Tensor, sizes: Tensor) -> Tensor:
    """The same as `reference`, differentiable. Weights are cast to the rows' format where they are used."""
    weights = weights.to(rows.dtype)
    eager = rows.device.type == "cpu" and not torch.compiler.is_compiling()
    if eager and rows.dtype == torch.bfloat16 and len(rows) > STEP:
        places, rounded = _in_steps(rows, sizes)
        room = rows.new_zeros(int(rounded.sum()), rows.shape[1])
        return _multiply(room.index_copy(0, places, rows), weights, rounded).index_select(0, places)
    return _multiply(rows, weights, sizes)


def _in_steps(rows: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Where each row lies once every group is filled up to a multiple of STEP, and the groups' sizes."""
    rounded = (sizes + STEP - 1) // STEP * STEP
    shift = (rounded.cumsum(0) - rounded) - (sizes.cumsum(0) - sizes)
    places = torch.arange(len(rows)) + torch.repeat_interleave(shift, sizes.long())
    return places, rounded


def _multiply(rows: Tensor, weights: Tensor, sizes: Tensor) -> Tensor:
    if has_grouped_product(rows, weights):
        ends = sizes.cumsum(0, dtype=torch.int32)
        return F.grouped_mm(rows, weights.mT, offs=ends)
    return product_per_group(rows, weights, sizes)  # type: ignore[no-any-return]


def has_grouped_product(rows: Tensor, weights: Tensor) -> bool:
    """Whether torch multiplies these by one call: aligned rows in bf16, and in fp32 on a CPU unless it is
    compiled. (On a CPU a bf16 call takes half the time of a call per group, forward and backward.)"""
    half_only = rows.is_cuda or torch.compiler.is_compiling()
    kinds = (torch.bfloat16,) if half_only else (torch.float32, torch.bfloat16)
    aligned = all(size * rows.element_size() % ALIGNMENT == 0 for size in weights.shape[1:])
    known = rows.is_cuda or rows.device.type == "cpu"
    return hasattr(F, "grouped_mm") and known and rows.dtype in kinds and aligned


@torch.compiler.disable
def product_per_group(rows: Tensor, weights: Tensor, sizes: Tensor) -> Tensor:
    """One product per group. Its shapes depend on the routing, so a compiler has nothing to gain here.
    `unbind` once: indexing each matrix would make a gradient of the whole stack's size for each."""
    parts = zip(rows.split(sizes.tolist()), weights.unbind(), strict=True)
    return torch.cat([F.linear(part, weight) for part, weight in parts])
