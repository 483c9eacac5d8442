"""Models whose weights are not trained themselves: held in the format of the products, or smaller."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from modelwright.base.device import freed_memory_given_back
from modelwright.base.files import read_json
from modelwright.formats.experts import as_held, single
from modelwright.formats.fused import split_fused
from modelwright.formats.huggingface import CONFIG, check_fit, load_config, load_model, own_weights
from modelwright.model.layers import Linear
from modelwright.model.stacks import QuantizedStack
from modelwright.model.transformer import Transformer

Quantize = Callable[[Tensor, bool], nn.Module]
"""(out, in) weights -> a layer that holds them in a smaller format; with room for a bias, or without."""


@freed_memory_given_back()
def load_frozen(folder: Path, dtype: torch.dtype, quantize: Quantize | None = None) -> Transformer:
    """A model to train beside: its matrices in `dtype`, in which it computes, or quantized as they are read,
    so that memory never holds more than one in full. Norms and biases, which are tiny, stay in fp32;
    embedding and head are not quantized.

    A folder that is quantized already is taken as it is.
    """
    if read_json(folder / CONFIG).get("quantization_config"):
        return load_model(folder, dtype)
    config = load_config(folder)
    with torch.device("meta"):
        model = Transformer(config, compute_dtype=dtype)
    expected = model.state_dict()
    linears = {name: layer for name, layer in model.model.layers.named_modules() if isinstance(layer, Linear)}
    kept: list[tuple[str, Tensor]] = []
    quantized: dict[str, Tensor] = {}
    """What of the expected has been replaced, by the name of its weight."""
    experts: dict[str, dict[int, nn.Module]] = {}
    for name, tensor in split_fused(own_weights(folder, config, None), config):
        layer = name.removeprefix("model.layers.").removesuffix(".weight")
        if quantize and layer in linears and tensor.shape == expected[name].shape:
            model.model.layers.set_submodule(layer, quantize(tensor, linears[layer].bias is not None))
            quantized[name] = expected[name]
        elif quantize and (one := single(name)) and _is_one_of(expected.get(one[0]), tensor):
            experts.setdefault(one[0], {})[one[1]] = quantize(tensor, False)
        else:
            kept.append((name, tensor.to(dtype if tensor.ndim > 1 else torch.float32, copy=True)))
    for name, each in experts.items():
        if each.keys() == set(range(len(expected[name]))):  # else one is said to be missing
            stack = QuantizedStack([each[number] for number in range(len(each))])
            model.set_submodule(name.removesuffix(".weight"), stack)
            quantized[name] = expected[name]
    state = as_held(kept)
    check_fit(folder, expected, state | quantized)
    model.load_state_dict(state, strict=False, assign=True)
    return model


def _is_one_of(stack: Tensor | None, tensor: Tensor) -> bool:
    return stack is not None and tensor.shape == stack.shape[1:]
