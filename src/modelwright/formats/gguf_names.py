"""Names and orders that GGUF has for what Hugging Face's folders hold, both ways."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from modelwright.base.errors import UserError

TENSORS = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "rope_freqs": "rope_freqs",
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
"""Module -> GGUF name; those inside a layer without their layer's prefix. Experts are stacked in both.
Checkpoints have no rope_freqs: see `ROPE_FACTORS`."""
TRANSFORMERS_READS_NO = frozenset({"gemma"})
"""Architectures whose GGUF files transformers does not read."""
ROPE_FACTORS = "rope_freqs.weight"
"""(hd / 2) what each frequency of rotations is divided by: Llama 3's way of stretching, worked out."""
_MODULES = {theirs: ours for ours, theirs in TENSORS.items()}
_OTHERWISE = {"qwen3_moe": "qwen3moe", "mistral": "llama"}
"""Where llama.cpp's name of an architecture differs from Hugging Face's."""


def gguf_architecture(architecture: str) -> str:
    """llama.cpp's name for one of our architectures."""
    return _OTHERWISE.get(architecture, architecture)


def gguf_name(name: str) -> str:
    """The GGUF name of a tensor of a Hugging Face checkpoint ("model.layers.3.mlp.up_proj.weight")."""
    module, _, kind = name.rpartition(".")
    prefix = ""
    if module.startswith("model.layers."):
        layer, _, module = module.removeprefix("model.layers.").partition(".")
        prefix = f"blk.{int(layer)}."
    if module not in TENSORS or kind not in ("weight", "bias"):
        raise UserError(f"tensor '{name}' has no place in a GGUF file of the architectures we write.")
    return f"{prefix}{TENSORS[module]}.{kind}"


def checkpoint_name(name: str, otherwise: Mapping[str, str]) -> str | None:
    """The way back, from "blk.3.ffn_up.weight"; None where there is none. `otherwise` is GGUF name -> module
    for what an architecture stores otherwise."""
    modules = {**_MODULES, **otherwise}
    module, _, kind = name.rpartition(".")
    prefix = ""
    if module.startswith("blk."):
        layer, _, module = module.removeprefix("blk.").partition(".")
        prefix = f"model.layers.{layer}."
    return f"{prefix}{modules[module]}.{kind}" if module in modules else None


def interleave_rotary(weight: Tensor, heads: int) -> Tensor:
    """Reorder the rows of a query or key projection (or bias) from rotated halves to rotated pairs.

    Hugging Face rotates row i of a head with row i + head_dim / 2; llama.cpp's `llama` rotates rows
    2i and 2i + 1. (heads * head_dim, ...) -> the same shape.
    """
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.transpose(1, 2).reshape(weight.shape)


def separate_rotary(weight: Tensor, heads: int) -> Tensor:
    """What `interleave_rotary` did, undone."""
    pairs = weight.reshape(heads, weight.shape[0] // heads // 2, 2, *weight.shape[1:])
    return pairs.transpose(1, 2).reshape(weight.shape)
