"""INT8 folders in the layout of compressed-tensors ("int-quantized"), which transformers and vLLM read.

Beside each quantized `weight` (int8) stands a `weight_scale` (out, 1), and config.json says so. Reading
is `huggingface.load_model`, as for any folder.
"""

from __future__ import annotations

from pathlib import Path

from modelwright.base.files import read_json, write_json
from modelwright.formats.huggingface import QUANT_METHOD, save_model
from modelwright.model.transformer import Transformer

FORMAT = "int-quantized"
"""One int8 element a weight, unpacked."""


def save_int8(folder: Path, model: Transformer, tokenizer_folder: Path) -> None:
    """Write a model whose projections are `Int8Linear` as a whole folder."""
    save_model(folder, model, tokenizer_folder)
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", {**config, "quantization_config": quantization_config()})


def quantization_config() -> dict[str, object]:
    """What compressed-tensors needs to know: which layers, how many bits, which scales."""
    weights = {
        "num_bits": 8,
        "type": "int",
        "symmetric": True,
        "strategy": "channel",
        "dynamic": False,
        "observer": "minmax",
    }
    group = {
        "targets": ["Linear"],
        "weights": weights,
        "input_activations": None,
        "output_activations": None,
        "format": FORMAT,  # here too: readers take "pack-quantized" for granted with weight-only schemes
    }
    return {
        "quant_method": QUANT_METHOD,
        "format": FORMAT,
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head", "re:.*\\.mlp\\.gate$"],  # the router of a mixture is no Linear of ours
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }
