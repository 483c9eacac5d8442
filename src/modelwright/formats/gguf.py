"""GGUF: one file with weights, tokenizer and chat template, for llama.cpp and everything built on it.

The converter that llama.cpp ships recognises a tokenizer by a hash of token ids, so it refuses every
vocabulary that was learned at home. We write the file ourselves through the `gguf` package. What is
easy to get silently wrong, and what we do about it:

- The pre-tokenizer is declared by name. The name is looked up from the text of the split regex in
  `tokenizer.json`; a regex we do not know is an error, never a guess.
- A missing `add_bos_token` or BOS id makes readers add one. Both are always written.
- Rotations stretched as in Llama 3 are stated as a tensor of factors, those of YaRN by settings; what
  llama.cpp would compute otherwise is refused.
- llama.cpp adds no one to Gemma's norms, whose weights are held less one: the file holds them whole.
- llama.cpp rotates neighbouring pairs for the architecture `llama` (which Mistral's models are of), and
  halves for `qwen2` and `qwen3`. Only for `llama` the rows of query and key projections are reordered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, RopeScalingType, quants

from modelwright.base.errors import UserError, did_you_mean
from modelwright.base.files import atomic_path
from modelwright.formats.gguf_names import (
    ROPE_FACTORS,
    gguf_architecture,
    gguf_name,
    interleave_rotary,
)
from modelwright.formats.gguf_vocabulary import Vocabulary
from modelwright.formats.huggingface import held_weights, load_config
from modelwright.model.config import ModelConfig
from modelwright.model.rope import LinearRope, Llama3Rope, Rope, RopeScaling, YarnRope

FileType = Literal["f32", "f16", "q8_0"]
"""How the matrices are stored; vectors (norms, biases) and routers are F32 in every type."""

_FILE_TYPES: Mapping[str, tuple[LlamaFileType, GGMLQuantizationType]] = {
    "f32": (LlamaFileType.ALL_F32, GGMLQuantizationType.F32),
    "f16": (LlamaFileType.MOSTLY_F16, GGMLQuantizationType.F16),
    "q8_0": (LlamaFileType.MOSTLY_Q8_0, GGMLQuantizationType.Q8_0),
}
_BLOCK = 32
"""Weights that share a scale in Q8_0: a row that this does not divide is stored as F16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a file says about itself besides what its reader computes with."""

    name: str = "modelwright"
    licence: str = "unknown"
    """Licence of the data it learned from: SPDX expression or words."""
    description: str = ""
    source: str = ""
    """Id of the artifact it was made from, so that a stray file leads back to its manifest."""


def write_gguf(model_folder: Path, out: Path, file_type: FileType, about: About | None = None) -> None:
    """Write the model in a Hugging Face folder as one GGUF file: equal inputs give equal bytes.

    Tensors are converted one at a time, so memory holds the model once, and not its copy too.
    """
    if file_type not in _FILE_TYPES:
        raise UserError(f"GGUF type '{file_type}' is unknown.{did_you_mean(file_type, get_args(FileType))}")
    config = load_config(model_folder)
    if config.architecture == "qwen2" and config.num_attention_heads * config.head_dim != config.hidden_size:
        raise UserError(
            f"llama.cpp loads qwen2 only where heads x head_dim ({config.num_attention_heads} x"
            f" {config.head_dim}) is hidden_size ({config.hidden_size}). Use the architecture qwen3 or llama."
        )
    _refuse_other_mixtures(config)
    _refuse_windows(config)
    _refuse_others(config)
    vocabulary = Vocabulary.read(model_folder, rows=config.vocab_size)
    state = held_weights(model_folder, config)  # readers take the embedding where there is no output matrix
    if isinstance(config.rope_scaling, Llama3Rope):
        state[ROPE_FACTORS] = _rope_factors(config)
    architecture = gguf_architecture(config.architecture)
    with atomic_path(out) as temporary, closing(GGUFWriter(str(temporary), architecture)) as writer:
        _describe(writer, config, file_type, about or About())
        vocabulary.write(writer)
        for name, weight in state.items():
            _announce(writer, gguf_name(name), tuple(weight.shape), file_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, weight in state.items():
            writer.write_tensor_data(_converted(name, weight, config, file_type))


def _refuse_other_mixtures(config: ModelConfig) -> None:
    """llama.cpp has one kind of qwen3moe, and reads others as if they were of it."""
    if config.num_experts and not config.norm_topk_prob:
        raise UserError(
            "llama.cpp divides the weights of chosen experts by their sum; norm_topk_prob is false."
        )
    if config.num_experts and len(config.mixture_layers) < config.num_hidden_layers:
        raise UserError(
            f"llama.cpp's qwen3moe has experts in every layer; this model in {len(config.mixture_layers)} of"
            f" {config.num_hidden_layers} (decoder_sparse_step, mlp_only_layers)."
        )


def _refuse_windows(config: ModelConfig) -> None:
    """llama.cpp's llama, qwen2 and qwen3 have no window: they compute the same only where it is no limit."""
    if config.sliding_window and config.sliding_window < config.max_position_embeddings:
        raise UserError(
            f"llama.cpp would let this model attend to all of its context ({config.max_position_embeddings}"
            f" tokens), not to {config.sliding_window} (sliding_window), and answer long texts as this model"
            " does not. For a file of short contexts, set max_position_embeddings to the window."
        )


def _refuse_others(config: ModelConfig) -> None:
    """What llama.cpp lacks in its architecture of that name."""
    lacking: list[str] = []
    if config.attention_bias and config.architecture != "llama":
        lacking.append("biases of attention (attention_bias)")
    if config.architecture == "gemma" and not config.tie_word_embeddings:
        lacking.append("an output matrix that is not the embedding (tie_word_embeddings)")
    scaling = config.rope_scaling
    if isinstance(scaling, Llama3Rope) and config.architecture not in ("llama", "mistral"):
        lacking.append("rotations stretched as Llama 3's (rope_scaling)")
    if isinstance(scaling, YarnRope) and scaling != _plain_yarn(scaling):
        lacking.append("YaRN with settings other than its paper's (rope_scaling)")
    if lacking:
        raise UserError(
            f"llama.cpp's {config.architecture} has no {', no '.join(lacking)}: not written as GGUF."
        )


def _plain_yarn(scaling: YarnRope) -> YarnRope:
    return YarnRope(
        factor=scaling.factor, original_max_position_embeddings=scaling.original_max_position_embeddings
    )


def _rope_factors(config: ModelConfig) -> torch.Tensor:
    """(hd / 2) what each frequency is divided by."""
    ways = (Rope(config.rope_theta, config.head_dim, way) for way in (None, config.rope_scaling))
    plain, stretched = (rope.frequencies(torch.device("cpu")) for rope in ways)
    return plain / stretched


_STORAGE: Mapping[GGMLQuantizationType, np.dtype[Any]] = {
    GGMLQuantizationType.F32: np.dtype(np.float32),
    GGMLQuantizationType.F16: np.dtype(np.float16),
    GGMLQuantizationType.Q8_0: np.dtype(np.uint8),
}


def _describe(writer: GGUFWriter, config: ModelConfig, file_type: FileType, about: About) -> None:
    writer.add_type("model")
    writer.add_name(about.name)
    writer.add_license(about.licence)
    if about.description:
        writer.add_description(about.description)
    if about.source:
        writer.add_string("modelwright.source_artifact", about.source)
    writer.add_file_type(_FILE_TYPES[file_type][0])
    writer.add_quantization_version(2)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_dimension_count(config.head_dim)
    _describe_scaling(writer, config.rope_scaling)
    writer.add_vocab_size(config.vocab_size)
    if config.num_experts:
        writer.add_expert_count(config.num_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)


def _describe_scaling(writer: GGUFWriter, scaling: RopeScaling | None) -> None:
    """Of Llama 3's way the factors are a tensor, and its context alone is a setting."""
    if isinstance(scaling, LinearRope | YarnRope):
        kind = RopeScalingType.LINEAR if isinstance(scaling, LinearRope) else RopeScalingType.YARN
        writer.add_rope_scaling_type(kind)
        writer.add_rope_scaling_factor(scaling.factor)
    if isinstance(scaling, Llama3Rope | YarnRope):
        writer.add_rope_scaling_orig_ctx_len(scaling.original_max_position_embeddings)


def _kind(name: str, shape: tuple[int, ...], file_type: FileType) -> GGMLQuantizationType:
    """How a tensor (by its GGUF name) is stored: vectors and routers in full."""
    if len(shape) == 1 or "ffn_gate_inp" in name:
        return GGMLQuantizationType.F32
    if file_type == "q8_0" and shape[-1] % _BLOCK:
        return GGMLQuantizationType.F16
    return _FILE_TYPES[file_type][1]


def _announce(writer: GGUFWriter, name: str, shape: tuple[int, ...], file_type: FileType) -> None:
    """Reserve a tensor's place; the bytes follow in the same order."""
    kind = _kind(name, shape, file_type)
    dtype = _STORAGE[kind]
    stored = quants.quant_shape_to_byte_shape(shape, kind) if dtype == np.uint8 else shape
    writer.add_tensor_info(name, stored, dtype, math.prod(stored) * dtype.itemsize, raw_dtype=kind)


def _converted(
    name: str, weight: torch.Tensor, config: ModelConfig, file_type: FileType
) -> np.ndarray[Any, Any]:
    """The tensor as it is stored: reordered where llama.cpp wants it so, then rounded."""
    if not weight.is_floating_point():
        raise UserError(f"'{name}' holds {weight.dtype}: export the model before it was quantized.")
    if config.architecture in ("llama", "mistral") and ".self_attn." in name:
        if "q_proj" in name:
            weight = interleave_rotary(weight, config.num_attention_heads)
        elif "k_proj" in name:
            weight = interleave_rotary(weight, config.num_key_value_heads)
    if config.centred_norms and name.endswith("norm.weight"):
        weight = weight.float() + 1
    values = weight.float().contiguous().numpy()
    kind = _kind(gguf_name(name), values.shape, file_type)
    largest = float(np.abs(values).max(initial=0.0))
    if not np.isfinite(largest):
        raise UserError(
            f"'{name}' holds values that are not finite: the training run diverged before this model."
        )
    if kind == GGMLQuantizationType.F16 and largest > float(np.finfo(np.float16).max):
        raise UserError(f"'{name}' reaches {largest:.3g}, more than F16 can hold; export with type f32.")
    return np.ascontiguousarray(quants.quantize(values, kind))
