"""First weights: normal, scaled by width and depth, from an explicit seed."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from modelwright.model.transformer import Transformer


def initialize(model: Transformer, seed: int) -> None:
    """Fill `model` in place, the same on every machine for the same seed."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, weight in first_weights(model, seed):
            parameters[name].copy_(weight)


def first_weights(model: Transformer, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Each parameter's name and first value, one after the other: a process that holds a piece of each never
    holds more than one whole. Every process draws all of them, and all draw the same.

    Matrices get std 1/sqrt(fan_in), the embedding and the head 0.02, and the two projections that write to
    the residual stream are divided by sqrt(2 x layers), as in GPT-2, so that the stream's variance does not
    grow with depth. Experts and routers are matrices like any other.
    """
    generator = torch.Generator().manual_seed(seed)
    config = model.config
    residual = 1 / math.sqrt(2 * config.num_hidden_layers)
    for name, parameter in model.named_parameters():
        shape = tuple(parameter.shape)
        if len(shape) < 2:
            zero = name.endswith("bias") or config.centred_norms
            yield name, torch.zeros(shape) if zero else torch.ones(shape)
            continue
        is_embedding = "embed_tokens" in name or "lm_head" in name
        std = 0.02 if is_embedding else 1 / math.sqrt(shape[-1])
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            std *= residual
        yield name, torch.empty(shape, dtype=torch.float32).normal_(0, std, generator=generator)
