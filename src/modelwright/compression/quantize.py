"""INT8 weights: symmetric rounding with one scale per output channel.

For each row w of a weight matrix: scale = max|w| / 127, q = round(w / scale), so that every weight is
off by at most scale / 2, that is max|row| / 254. No weight is clipped and zero stays zero.

What is quantized: the projections of attention and feed-forward, those of experts included. What is kept:
norms, biases and routers, which are tiny, and the embedding with the output head. The head's rounding
errors go straight into the logits with no layer after them to average them out, and readers of the
compressed-tensors format expect `lm_head` untouched; a tied embedding is the head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from modelwright.base.errors import UserError
from modelwright.model.moe import StackedLinear
from modelwright.model.quantized import replace_linears
from modelwright.model.transformer import Transformer

LEVELS = 127
"""Largest magnitude of a symmetric 8-bit integer; -128 is not used, so that -q exists for every q."""


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(..., out, in) floats -> int8 of that shape and (..., out, 1) fp32 scales, |weight - q * scale| <=
    scale / 2.

    A row of zeros gets scale 1, so that nothing is divided by zero. The rounding is done in fp64: in
    fp32 the quotient itself is rounded, and a weight at the midpoint could land on the far side.
    """
    if not torch.isfinite(weight).all():
        raise UserError("a weight is not finite: the model diverged in training and cannot be quantized.")
    largest = weight.float().abs().amax(dim=-1, keepdim=True)
    scale = torch.where(largest > 0, largest / LEVELS, torch.ones_like(largest))
    scale = scale.clamp_min(torch.finfo(torch.float32).tiny)
    rounded = torch.round(weight.double() / scale.double()).clamp(-LEVELS, LEVELS)
    return rounded.to(torch.int8), scale


def dequantize_rows(weight: Tensor, scale: Tensor) -> Tensor:
    """(out, in) int8 and (out, 1) scales -> (out, in) fp32."""
    return weight.float() * scale.float()


def quantized_linears(model: Transformer) -> tuple[str, ...]:
    """Dotted names of the layers that are quantized, in order."""
    return tuple(
        f"model.layers.{name}"
        for name, module in model.model.layers.named_modules()
        if isinstance(module, nn.Linear | StackedLinear)
    )


@torch.no_grad()
def quantize(model: Transformer, kept_dtype: torch.dtype = torch.bfloat16) -> Transformer:
    """A new model with INT8 projections; `model` is left as it is.

    What is not quantized is stored as `kept_dtype`.
    """
    names = frozenset(quantized_linears(model))
    state = dict(_quantized_state(model.state_dict(), names, kept_dtype))
    with torch.device("meta"):
        made = Transformer(model.config, model.compute_dtype)
        replace_linears(made, names)
    made.load_state_dict(state, assign=True)
    return made.eval()


def _quantized_state(
    state: Mapping[str, Tensor], names: frozenset[str], kept_dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in state.items():
        module, _, kind = name.rpartition(".")
        if module in names and kind == "weight":
            weight, scale = quantize_rows(tensor)
            yield name, weight
            yield f"{name}_scale", scale
        else:
            yield name, tensor.detach().to(kept_dtype)
