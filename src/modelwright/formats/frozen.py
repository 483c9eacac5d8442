"""Models whose weights are not trained themselves: held in the format of the products, or smaller."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from modelwright.base.errors import UserError
from modelwright.base.files import read_json
from modelwright.formats.experts import as_held
from modelwright.formats.fused import split_fused
from modelwright.formats.huggingface import CONFIG, load_config, load_model, own_weights
from modelwright.model.layers import Linear
from modelwright.model.transformer import Transformer

Quantize = Callable[[Tensor, bool], nn.Module]
"""(out, in) weights -> a layer that holds them in a smaller format; with room for a bias, or without."""


def load_frozen(folder: Path, dtype: torch.dtype, quantize: Quantize | None = None) -> Transformer:
    """A model to train beside: its matrices in `dtype`, in which it computes, or quantized as they are read,
    so that memory never holds more than one in full. Norms and biases, which are tiny, stay in fp32;
    embedding, head and experts are not quantized.

    A folder that is quantized already is taken as it is.
    """
    if read_json(folder / CONFIG).get("quantization_config"):
        return load_model(folder, dtype)
    config = load_config(folder)
    with torch.device("meta"):
        model = Transformer(config, compute_dtype=dtype)
    linears = {name: layer for name, layer in model.model.layers.named_modules() if isinstance(layer, Linear)}
    kept: list[tuple[str, Tensor]] = []
    for name, tensor in split_fused(own_weights(folder, config, None), config):
        layer = name.removeprefix("model.layers.").removesuffix(".weight")
        if quantize and layer in linears:
            model.model.layers.set_submodule(layer, quantize(tensor, linears[layer].bias is not None))
        else:
            kept.append((name, tensor.to(dtype if tensor.ndim > 1 else torch.float32, copy=True)))
    _, unknown = model.load_state_dict(as_held(kept), strict=False, assign=True)
    missing = [name for name, tensor in model.state_dict().items() if tensor.is_meta]
    if missing or unknown:
        raise UserError(
            f"{folder}: the weights do not fit {CONFIG}: {len(missing)} missing {missing[:3]}, "
            f"{len(unknown)} unknown {unknown[:3]}"
        )
    return model
