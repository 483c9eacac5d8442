"""First weights: normal, scaled by width and depth, from an explicit seed."""

from __future__ import annotations

import math

import torch
from torch import nn

from modelwright.model.transformer import Transformer


def initialize(model: Transformer, seed: int) -> None:
    """Fill `model` in place, the same on every machine for the same seed.

    Matrices get std 1/sqrt(fan_in) (capped at 0.02 x sqrt(1024 / width) for the embedding), and the two
    projections that write to the residual stream are divided by sqrt(2 x layers), as in GPT-2, so that the
    stream's variance does not grow with depth. Experts and routers are matrices like any other.
    """
    generator = torch.Generator().manual_seed(seed)
    config = model.config
    residual = 1 / math.sqrt(2 * config.num_hidden_layers)
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            if parameter.ndim < 2:
                nn.init.zeros_(parameter) if name.endswith("bias") else nn.init.ones_(parameter)
                continue
            is_embedding = "embed_tokens" in name or "lm_head" in name
            std = 0.02 if is_embedding else 1 / math.sqrt(parameter.shape[-1])
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                std *= residual
            drawn = torch.empty(parameter.shape, dtype=torch.float32).normal_(0, std, generator=generator)
            parameter.copy_(drawn)
