"""A GGUF file taken apart into a Hugging Face folder, from which it is a model like any other.

Weights are dequantized: what rounding took is gone. Queries and keys of the architecture `llama` get back the
order of their rows, Gemma's norms their weights less one (see formats/gguf.py for the way there). What a file
says that would change what is computed, and is none of what we compute, is refused by name.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
import yaml
from gguf import GGMLQuantizationType
from torch import Tensor

from modelwright.base.errors import DamagedFile, UserError
from modelwright.base.files import atomic_directory, write_json, write_text
from modelwright.formats.config_json import config_to_json
from modelwright.formats.experts import as_stored
from modelwright.formats.fused import split_fused
from modelwright.formats.gguf_config import read_config
from modelwright.formats.gguf_file import GGUFFile
from modelwright.formats.gguf_names import ROPE_FACTORS, checkpoint_name, separate_rotary
from modelwright.formats.gguf_tokenizer import Vocabulary
from modelwright.formats.huggingface import CONFIG, save_weights
from modelwright.formats.stored import WEIGHTS
from modelwright.model.config import ModelConfig
from modelwright.model.transformer import Transformer

_PHI3 = {"attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"}
"""Of phi3's tensors, those that hold several of ours."""
_FORMATS = {GGMLQuantizationType.F32: torch.float32, GGMLQuantizationType.BF16: torch.bfloat16}


def import_gguf(file: Path, folder: Path) -> ModelConfig:
    """Write what a GGUF file holds as a Hugging Face folder: weights, config.json, tokenizer, chat template.

    Each weight is stored in fp32 or bf16 where the file has it so, else in fp16. Memory holds the model once,
    in these formats.
    """
    source = GGUFFile(file)
    config = read_config(source)
    vocabulary = Vocabulary.read(source, config.vocab_size)
    weights = dict(split_fused(_weights(source, config), config))
    if missing := sorted(_shapes(config).keys() - weights.keys()):
        raise DamagedFile(f"{source.path} lacks {len(missing)} of its weights: {missing[:3]}")
    weights = as_stored(weights)
    with atomic_directory(folder) as made:
        save_weights(made / WEIGHTS, weights)
        special = vocabulary.save(made)
        write_json(made / CONFIG, config_to_json(config, _usual_format(source), special))
        write_text(made / "README.md", _card(source))
    return config


def _card(source: GGUFFile) -> str:
    """What the file states of its licence and name, where a folder states it."""
    licence = source.setting("general.license", str, "")
    front = f"---\n{yaml.safe_dump({'license': licence})}---\n\n" if licence else ""
    return f"{front}{source.setting('general.name', str, 'A model')}, read from {source.path.name}.\n"


def _shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Weight -> its sides, for all of a network's."""
    with torch.device("meta"):
        return {name: tuple(weight.shape) for name, weight in Transformer(config).state_dict().items()}


def _format(kind: GGMLQuantizationType) -> torch.dtype:
    """The smallest format that holds a tensor as it is stored: what was quantized, to a part in 2,000."""
    return _FORMATS.get(kind, torch.float16)


def _usual_format(source: GGUFFile) -> torch.dtype:
    """That of most of the weights' numbers."""
    numbers: Counter[torch.dtype] = Counter()
    for stored in source.tensors.values():
        numbers[_format(stored.kind)] += math.prod(stored.shape)
    return numbers.most_common(1)[0][0]


def _weights(source: GGUFFile, config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """(name in a checkpoint, tensor), one after the other."""
    rotated = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    theirs = source.setting("general.architecture", str)
    fused: Mapping[str, str] = _PHI3 if theirs == "phi3" else {}
    shapes = _shapes(config)
    for stored in source.tensors:
        if stored == ROPE_FACTORS:
            continue
        name, shape = checkpoint_name(stored, fused), source.tensors[stored].shape
        splits = name is not None and name.endswith(tuple(f"{module}.weight" for module in fused.values()))
        if name is None or not (splits or name in shapes):
            raise UserError(f"{source.path} holds {stored}, which has no place in {config.architecture}")
        if not splits and shape != shapes[name]:
            raise DamagedFile(f"{source.path}: {stored} is {shape}, its settings imply {shapes[name]}")
        weight = source.tensor(stored, _format(source.tensors[stored].kind))
        kind = stored.split(".")[-2]
        if theirs == "llama" and kind in rotated:
            weight = separate_rotary(weight, rotated[kind])
        yield name, weight - 1 if config.centred_norms and name.endswith("norm.weight") else weight
