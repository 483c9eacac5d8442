"""GGUF: one file with weights, tokenizer and chat template, for llama.cpp and everything built on it.

The converter that llama.cpp ships recognises a tokenizer by a hash of token ids, so it refuses every
vocabulary that was learned at home. We write the file ourselves through the `gguf` package. What is
easy to get silently wrong, and what we do about it:

- The pre-tokenizer is declared by name. The name is looked up from the text of the split regex in
  `tokenizer.json`; a regex we do not know is an error, never a guess.
- A missing `add_bos_token` or BOS id makes readers add one. Both are always written.
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
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType, quants

from modelwright.base.errors import DamagedFile, UserError, did_you_mean
from modelwright.base.files import atomic_path, read_json
from modelwright.formats.experts import as_held
from modelwright.formats.huggingface import load_config, load_weights
from modelwright.model.config import ModelConfig
from modelwright.tokenizer.bpe import CONFIG_FILE, TOKENIZER_FILE
from modelwright.tokenizer.chat import END_OF_TEXT, TURN_END
from modelwright.tokenizer.patterns import REGEX, cut_of

FileType = Literal["f32", "f16", "q8_0"]
"""How the matrices are stored; vectors (norms, biases) and routers are F32 in every type."""

_FILE_TYPES: Mapping[str, tuple[LlamaFileType, GGMLQuantizationType]] = {
    "f32": (LlamaFileType.ALL_F32, GGMLQuantizationType.F32),
    "f16": (LlamaFileType.MOSTLY_F16, GGMLQuantizationType.F16),
    "q8_0": (LlamaFileType.MOSTLY_Q8_0, GGMLQuantizationType.Q8_0),
}
_BLOCK = 32
"""Weights that share a scale in Q8_0: a row that this does not divide is stored as F16."""

_TENSORS = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "mlp.experts.gate_proj": "ffn_gate_exps",
    "mlp.experts.up_proj": "ffn_up_exps",
    "mlp.experts.down_proj": "ffn_down_exps",
}
"""Module -> GGUF name; those inside a layer without their layer's prefix. Experts are stacked in both."""
_ARCHITECTURES = {"qwen3_moe": "qwen3moe", "mistral": "llama"}
"""Where llama.cpp's name differs from Hugging Face's."""


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
    vocabulary = Vocabulary.read(model_folder, rows=config.vocab_size)
    state = as_held(load_weights(model_folder))
    if config.tie_word_embeddings:
        state.pop("lm_head.weight", None)  # readers take the embedding where there is no output matrix
    architecture = _ARCHITECTURES.get(config.architecture, config.architecture)
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
    writer.add_vocab_size(config.vocab_size)
    if config.num_experts:
        writer.add_expert_count(config.num_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """What GGUF says about a tokenizer, read from `tokenizer.json` and `tokenizer_config.json`."""

    tokens: list[str]
    """By id, in the byte-level alphabet."""
    types: list[TokenType]
    merges: list[str]
    pre: str
    """llama.cpp's name for the pre-tokenizer."""
    end_of_text: int
    end_of_turn: int
    chat_template: str

    @classmethod
    def read(cls, folder: Path, rows: int) -> Vocabulary:
        """Read and check a folder's tokenizer; `rows` is how many embeddings the model has."""
        content = read_json(folder / TOKENIZER_FILE)
        settings = read_json(folder / CONFIG_FILE)
        try:
            tokens, types = _tokens(content, rows)
            return cls(
                tokens=tokens,
                types=types,
                merges=[m if isinstance(m, str) else " ".join(m) for m in content["model"]["merges"]],
                pre=_pre_tokenizer(content),
                end_of_text=tokens.index(END_OF_TEXT),
                end_of_turn=tokens.index(TURN_END),
                chat_template=settings["chat_template"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedFile(
                f"{folder}: the tokenizer files lack something a GGUF needs: {error!r}. Expected a byte-level"
                " BPE with the special tokens and the chat template that `modelwright tokenize` writes."
            ) from error

    def write(self, writer: GGUFWriter) -> None:
        """Add all of it to a file's metadata."""
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        writer.add_token_merges(self.merges)
        # Without a BOS id llama.cpp assumes token 11 of this vocabulary type.
        writer.add_bos_token_id(self.end_of_text)
        writer.add_eos_token_id(self.end_of_turn)
        writer.add_eot_token_id(self.end_of_turn)
        writer.add_pad_token_id(self.end_of_text)
        writer.add_add_bos_token(False)
        writer.add_chat_template(self.chat_template)


def _tokens(content: Mapping[str, Any], rows: int) -> tuple[list[str], list[TokenType]]:
    ids: dict[int, str] = {index: token for token, index in content["model"]["vocab"].items()}
    types = dict.fromkeys(ids, TokenType.NORMAL)
    for added in content["added_tokens"]:
        ids[added["id"]] = added["content"]
        types[added["id"]] = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
    if len(ids) > rows or max(ids) >= rows:
        raise UserError(
            f"the tokenizer has {max(ids) + 1} tokens but the model has {rows} embeddings: they do not belong"
            " together. Export a folder whose tokenizer is the one the model was trained with."
        )
    unused = {index: f"[UNUSED{index}]" for index in range(rows) if index not in ids}
    types.update(dict.fromkeys(unused, TokenType.UNUSED))
    ids.update(unused)
    return [ids[index] for index in range(rows)], [types[index] for index in range(rows)]


def _pre_tokenizer(content: Mapping[str, Any]) -> str:
    cut = cut_of(content)
    if cut is None or cut.gguf_name is None:
        raise UserError(
            f"tokenizer.json pre-tokenizes by {content.get('pre_tokenizer')!r} behind the normalizer "
            f"{content.get('normalizer')!r}; llama.cpp has no name for that, and a wrong name breaks text "
            f"silently. Known: {', '.join(REGEX)}, without a normalizer."
        )
    return cut.gguf_name


def gguf_name(name: str) -> str:
    """The GGUF name of a tensor of a Hugging Face checkpoint ("model.layers.3.mlp.up_proj.weight")."""
    module, _, kind = name.rpartition(".")
    prefix = ""
    if module.startswith("model.layers."):
        layer, _, module = module.removeprefix("model.layers.").partition(".")
        prefix = f"blk.{int(layer)}."
    if module not in _TENSORS or kind not in ("weight", "bias"):
        raise UserError(f"tensor '{name}' has no place in a GGUF file of the architectures we write.")
    return f"{prefix}{_TENSORS[module]}.{kind}"


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


def interleave_rotary(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Reorder the rows of a query or key projection (or bias) from rotated halves to rotated pairs.

    Hugging Face rotates row i of a head with row i + head_dim / 2; llama.cpp's `llama` rotates rows
    2i and 2i + 1. (heads * head_dim, ...) -> the same shape.
    """
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.transpose(1, 2).reshape(weight.shape)
