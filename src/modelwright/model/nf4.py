"""A frozen linear layer in NF4 (QLoRA, arXiv 2305.14314): 4 bits a weight, and scales that are quantized in
turn, in all 4.13 bits.

The weights exist while they are multiplied with, and again in the backward pass: what is kept is the 4 bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelwright.kernels import low_rank, nf4
from modelwright.model.quantized import check_finite

SCALES = 256
"""Scales that share a step and a mean."""
PART = 2**20
"""Weights that are made at a time where they are not needed all at once: 2 MiB in bf16. Besides the memory of
the whole that saves what an allocator cannot hand out again of blocks of many sizes."""


def quantize_blocks(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Any shape -> (blocks, 32) packed levels and (blocks,) fp32 scales, before these are rounded themselves.

    A block of zeros has scale 0.
    """
    check_finite(weight)
    flat = weight.flatten()
    return nf4.levels(F.pad(flat, (0, -len(flat) % nf4.BLOCK)).view(-1, nf4.BLOCK))


class NF4Linear(nn.Module):
    """y = x @ W.T + bias. W is cut into blocks of 64 neighbours, row behind row; zeros fill the last one.

    The scale of a block is level x step + mean: a level of 8 bits, step and mean shared by 256 blocks.
    """

    packed: Tensor
    """(blocks, 32) uint8: two weights in a byte (kernels/nf4.py)."""
    scale_levels: Tensor
    """(blocks,) int8."""
    scale_steps: Tensor
    """(blocks / 256,) fp32."""
    scale_means: Tensor
    """(blocks / 256,) fp32."""
    bias: Tensor | None

    def __init__(self, in_features: int, out_features: int, bias: bool = False) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        blocks = -(-in_features * out_features // nf4.BLOCK)
        groups = -(-blocks // SCALES)
        self.register_buffer("packed", torch.zeros(blocks, nf4.BLOCK // 2, dtype=torch.uint8))
        self.register_buffer("scale_levels", torch.zeros(blocks, dtype=torch.int8))
        self.register_buffer("scale_steps", torch.zeros(groups))
        self.register_buffer("scale_means", torch.zeros(groups))
        self.register_buffer("bias", torch.zeros(out_features) if bias else None)

    def scales(self) -> Tensor:
        """(blocks,) fp32."""
        blocks = len(self.scale_levels)
        levels = F.pad(self.scale_levels, (0, -blocks % SCALES)).view(-1, SCALES).float()
        return levels.mul_(self.scale_steps[:, None]).add_(self.scale_means[:, None]).flatten()[:blocks]

    def weight_in(self, dtype: torch.dtype) -> Tensor:
        """(out, in) the weights that the levels stand for."""
        shape = self.out_features, self.in_features
        made = nf4.weights(self.packed, self.scales(), dtype)
        return made.flatten()[: prod(shape)].view(shape)

    def parts_in(self, dtype: torch.dtype, axis: int) -> Iterator[Tensor]:
        """The same in parts of about `PART` weights, along an axis; whole where a block would be cut."""
        if self.in_features % nf4.BLOCK:
            yield self.weight_in(dtype)
            return
        grid = self.out_features, self.in_features // nf4.BLOCK
        packed, scales = self.packed.view(*grid, -1), self.scales().view(grid)
        unit = 1 if axis else nf4.BLOCK  # columns are counted in blocks, and rows kept to round numbers
        count = -(-self.out_features * self.in_features // PART)
        size = -(-grid[axis] // (count * unit)) * unit
        for some, theirs in zip(packed.split(size, axis), scales.split(size, axis), strict=True):
            blocks = some.reshape(-1, nf4.BLOCK // 2)
            yield nf4.weights(blocks, theirs.reshape(-1), dtype).view(some.shape[0], -1)

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) -> (..., out), in the input's dtype."""
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return low_rank.frozen(input, partial(self.weight_in, input.dtype), bias)
