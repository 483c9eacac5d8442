"""Large networks of random weights beside which adapters are trained, made without being held in full."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from modelwright.base.device import freed_memory_given_back
from modelwright.formats.frozen import Quantize
from modelwright.model.adaptation import AdapterConfig, adapt
from modelwright.model.config import ModelConfig
from modelwright.model.layers import Linear
from modelwright.model.transformer import Transformer

STD = 0.02
"""Of the random weights."""


@freed_memory_given_back()
def random_adapted(
    shape: ModelConfig,
    dtype: torch.dtype,
    device: str,
    rank: int,
    quantize: Quantize | None = None,
    drawn_on: str | None = None,
) -> Transformer:
    """Random weights in `dtype`, or quantized one by one, with a change of every linear layer that learns: as
    formats/frozen.py holds a model that it reads. Those drawn on the CPU are the same on every machine; None:
    on `device`, which is quicker."""
    with torch.device("meta"):
        model = Transformer(shape, dtype)
    torch.manual_seed(0)

    def drawn(like: Tensor) -> Tensor:
        return torch.empty(like.shape, device=drawn_on or device).normal_(0, STD).to(device)

    for name, layer in dict(model.model.layers.named_modules()).items():
        if quantize and isinstance(layer, Linear):
            quantized = quantize(drawn(layer.weight), layer.bias is not None)
            model.model.layers.set_submodule(name, quantized)

    def rest() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in model.state_dict().items():
            if tensor.is_meta:
                yield (
                    name,
                    drawn(tensor).to(dtype) if tensor.ndim > 1 else torch.ones(tensor.shape, device=device),
                )

    model.load_state_dict(dict(rest()), strict=False, assign=True)
    adapt(model, AdapterConfig(rank=rank, alpha=2 * rank), seed=0)
    return model
