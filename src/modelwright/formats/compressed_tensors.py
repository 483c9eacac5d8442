"""What config.json says about integer weights, in the words of compressed-tensors: the layout that
transformers and vLLM read.

    bits   format           of each layer
    8      int-quantized    weight (out, in) int8, weight_scale (out, 1)
    4      pack-quantized   weight_packed (out, in / 8) int32, weight_scale (out, in / group), weight_shape
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modelwright.base.errors import UserError
from modelwright.model.quantized import GROUP, Scheme

METHOD = "compressed-tensors"
FORMATS = {8: "int-quantized", 4: "pack-quantized"}
"""bits -> layout."""


def describe(scheme: Scheme) -> dict[str, Any]:
    """`quantization_config`: which layers, how many bits, which scales."""
    format = FORMATS[scheme.bits]
    group = {
        "targets": ["Linear"],
        "weights": {**_weights(scheme), "dynamic": False, "observer": "minmax"},
        "input_activations": None,
        "output_activations": None,
        "format": format,  # here too: readers take "pack-quantized" for granted with weight-only schemes
    }
    return {
        "quant_method": METHOD,
        "format": format,
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head", "re:.*\\.mlp\\.gate$"],  # the router of a mixture is no Linear of ours
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }


def _weights(scheme: Scheme) -> dict[str, Any]:
    integers = {"num_bits": scheme.bits, "type": "int", "symmetric": True}
    if scheme.bits == 8:
        return {**integers, "strategy": "channel"}
    return {**integers, "strategy": "group", "group_size": scheme.group}


def read_scheme(raw: Mapping[str, Any], folder: Path) -> Scheme:
    """The scheme that a `quantization_config` describes; what our layers cannot hold is refused."""
    if (method := raw.get("quant_method")) != METHOD:
        raise UserError(f"{folder} is quantized by '{method}', which is not supported; export it unquantized")
    groups = list((raw.get("config_groups") or {}).values())
    stated = groups[0] if len(groups) == 1 else {}
    weights = stated.get("weights") or {}
    scheme = Scheme(bits=weights.get("num_bits", 0), group=weights.get("group_size") or GROUP)
    format = stated.get("format") or raw.get("format")
    differs = {name for name, value in _weights(scheme).items() if weights.get(name) != value}
    if differs or format != FORMATS.get(scheme.bits) or scheme.group % GROUP:
        raise UserError(
            f"{folder}: of compressed-tensors, symmetric integers are read, the same for all layers: 8 bits"
            f" with a scale for each row ({FORMATS[8]}), or 4 with one for each group of {GROUP},"
            f" {2 * GROUP}... inputs ({FORMATS[4]}). This is {format}: {weights or groups}. Take the model it"
            " was made from, and run `modelwright compress`."
        )
    return scheme


def quantized_names(state: Mapping[str, Tensor], scheme: Scheme) -> frozenset[str]:
    """The layers of a folder that are quantized."""
    kind, dtype = (".weight", torch.int8) if scheme.bits == 8 else (".weight_packed", torch.int32)
    names = (name for name, tensor in state.items() if tensor.dtype == dtype)
    return frozenset(name.removesuffix(kind) for name in names if name.endswith(kind))
