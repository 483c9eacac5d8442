"""Weights in NF4 and back: 4 bits for each, whose levels are quantiles of a normal distribution (QLoRA,
arXiv 2305.14314, appendix E), and a scale for each 64 neighbours. weight = CODE[level] x scale.

On a GPU and where nothing can be compiled, plain operations; on a CPU `native.cpp` goes over memory once.
Level 2 i lies in the lower half of byte i, level 2 i + 1 in the upper one (bitsandbytes has it the other way
round).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from modelwright.kernels import native

BLOCK = 64
"""Weights that share a scale."""
CODE = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
"""The level of each of the 16 numbers. Zero is one of them, so that what is zero stays zero."""


MIDPOINTS = tuple((low + high) / 2 for low, high in pairwise(CODE))
"""What lies on one goes to the lower level."""
BLOCKS_AT_ONCE = 1 << 14
"""How many blocks `reference_levels` rounds together: bounds the memory that it takes beside them."""


def reference_levels(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 64) finite weights -> (B, 32) bytes, two levels in each, and (B,) fp32 scales, the largest |w|."""
    midpoints = torch.tensor(MIDPOINTS, device=blocks.device)
    packed, scales = list[Tensor](), list[Tensor]()
    for part in blocks.split(BLOCKS_AT_ONCE):
        scale = part.float().abs().amax(1)
        shares = part.float() / torch.where(scale == 0, 1.0, scale)[:, None]
        levels = torch.bucketize(shares, midpoints, out_int32=True).to(torch.uint8)
        packed.append(levels[:, 0::2] | levels[:, 1::2] << 4)
        scales.append(scale)
    return torch.cat(packed), torch.cat(scales)


def levels(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """The same as `reference_levels`, to the bit."""
    if not native.usable(blocks):
        return reference_levels(blocks)
    packed = torch.empty(len(blocks), BLOCK // 2, dtype=torch.uint8)
    scales, midpoints = torch.empty(len(blocks)), torch.tensor(MIDPOINTS)
    native.call("nf4_levels", blocks.dtype, blocks.contiguous(), midpoints, scales, packed, len(blocks))
    return packed, scales


def reference(packed: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, 32) bytes and (B,) fp32 scales -> (B, 64) weights."""
    levels = torch.stack((packed & 15, packed >> 4), dim=-1).flatten(-2)
    code = torch.tensor(CODE, device=packed.device)
    return (code[levels.int()] * scales[:, None]).to(dtype)


def weights(packed: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """The same as `reference`, to the bit."""
    made = torch.empty(len(packed), BLOCK, dtype=dtype, device=packed.device)
    if not native.usable(made) or not native.plain(packed, scales):
        return reference(packed, scales, dtype)
    code = torch.tensor(CODE)
    native.call("nf4", dtype, packed.contiguous(), scales.contiguous(), code, made, len(packed))
    return made
