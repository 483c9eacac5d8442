"""Rounding to NF4 with double quantization (QLoRA, arXiv 2305.14314, section 3).

For each 64 neighbouring weights: scale = max|w|, and each weight becomes the level of the code book
(kernels/nf4.py) that is nearest to w / scale. Neighbours in the code book are at most 0.304 apart, so that no
weight is off by more than 0.152 scales. Then, for each 256 scales: their mean is taken out, and the rest is
rounded to 8 bits of step = max|rest| / 127, which moves a weight by at most step / 2 more.

We differ from bitsandbytes in the second rounding, which there has the levels of an 8-bit float: scales of
trained weights lie close together, where even steps are the finer ones. And a midpoint goes to the lower
level.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modelwright.model.nf4 import SCALES, NF4Linear, quantize_blocks
from modelwright.model.quantized import LEVELS


def quantize_scales(scales: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(blocks,) fp32 -> int8 levels of that length, (blocks / 256,) fp32 steps and means."""
    groups = list(scales.split(SCALES))
    means = torch.stack([group.mean() for group in groups])
    rests = [group - mean for group, mean in zip(groups, means, strict=True)]
    steps = torch.stack([rest.abs().max() / LEVELS for rest in rests])
    divisors = torch.where(steps == 0, 1.0, steps)
    levels = torch.cat([(rest / step).round_() for rest, step in zip(rests, divisors, strict=True)])
    return levels.clamp_(-LEVELS, LEVELS).to(torch.int8), steps, means


@torch.no_grad()
def nf4_linear(weight: Tensor, bias: bool = False) -> NF4Linear:
    """A layer with (out, in) weights rounded; its bias, where it is to have one, is still zeros."""
    made = NF4Linear(weight.shape[1], weight.shape[0], bias).to(weight.device)
    made.packed, scales = quantize_blocks(weight)
    made.scale_levels, made.scale_steps, made.scale_means = quantize_scales(scales)
    return made
