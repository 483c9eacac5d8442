"""What the settings of a GGUF file say of its network, as a `ModelConfig`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from modelwright.base.config import validate
from modelwright.base.errors import DamagedFile, UserError, did_you_mean
from modelwright.formats.gguf_file import GGUFFile
from modelwright.formats.gguf_names import ROPE_FACTORS
from modelwright.model.config import ModelConfig
from modelwright.model.rope import Llama3Rope, Rope

_ARCHITECTURES = {
    "llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "qwen3moe": "qwen3_moe", "gemma": "gemma",
    "phi3": "mistral",
}  # fmt: skip
"""llama.cpp's name -> ours."""
_UNSET, _UNSCALED = (None, 0), (None, 0, 1)
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "attention.causal": (None, True),
    "attention.clamp_kqv": _UNSET,
    "attention.max_alibi_bias": _UNSET,
    "attention.scale": _UNSET,
    "attn_logit_softcapping": _UNSET,
    "embedding_scale": _UNSCALED,
    "expert_shared_count": _UNSET,
    "expert_weights_scale": _UNSCALED,
    "final_logit_softcapping": _UNSET,
    "leading_dense_block_count": _UNSET,
    "logit_scale": _UNSCALED,
    "residual_scale": _UNSCALED,
    "rope.dimension_sections": (None,),
    "rope.scale_linear": _UNSCALED,
    "router_logit_softcapping": _UNSET,
    "use_parallel_residual": (None, False),
}
"""Settings that change what is computed, none of which our architectures have -> values with which they do
not."""
_LARGEST = 1 << 26
"""No size of a model is larger."""


def read_config(source: GGUFFile) -> ModelConfig:
    """The network that a file's settings and tensors describe."""
    theirs = source.setting("general.architecture", str)
    architecture = _ARCHITECTURES.get(theirs)
    if architecture is None:
        raise UserError(
            f"{source.path}: the architecture {theirs} of GGUF is not supported."
            f"{did_you_mean(theirs, _ARCHITECTURES)}"
        )
    if (parts := source.setting("split.count", int, 1)) > 1:
        raise UserError(
            f"{source.path} is one of {parts} parts: put them together by `llama-gguf-split --merge` first"
        )
    _refuse_changes(source, theirs)

    def whole(name: str, default: int | None = None) -> int:
        value = int(source.setting(f"{theirs}.{name}", int, default))
        if not 0 <= value <= _LARGEST:
            raise DamagedFile(f"{source.path} says {value} of {theirs}.{name}")
        return value

    def real(name: str, default: float | None = None) -> float:
        return float(f"{source.setting(f'{theirs}.{name}', float, default):.7g}")  # stored in fp32

    layers = {name.split(".")[1] for name in source.tensors if name.startswith("blk.")}
    if whole("block_count") != len(layers):
        raise DamagedFile(f"{source.path} says {whole('block_count')} layers, and holds {len(layers)}")
    if "token_embd.weight" not in source.tensors:
        raise DamagedFile(f"{source.path} holds no token_embd.weight: it is no language model, or not whole")
    *_, vocabulary, hidden = (0, 0, *source.tensors["token_embd.weight"].shape)
    heads = whole("attention.head_count")
    head_dim = whole("attention.key_length", hidden // max(heads, 1))
    window = whole("attention.sliding_window", 0)
    if architecture == "llama" and window:
        architecture = "mistral"
    settings: dict[str, Any] = {
        "architecture": architecture,
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": whole("feed_forward_length"),
        "num_hidden_layers": whole("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": whole("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "rms_norm_eps": real("attention.layer_norm_rms_epsilon"),
        "rope_theta": real("rope.freq_base", 10_000.0),
        "max_position_embeddings": whole("context_length"),
        "tie_word_embeddings": "output.weight" not in source.tensors,
        "sliding_window": window or None,
        "attention_bias": architecture != "qwen2" and "blk.0.attn_output.bias" in source.tensors,
        "mlp_bias": "blk.0.ffn_gate.bias" in source.tensors,
    }
    for name in ("rope.dimension_count", "attention.value_length"):
        if whole(name, head_dim) != head_dim:
            raise UserError(
                f"{source.path} says {name} {whole(name)} where heads have {head_dim}: not supported"
            )
    if architecture == "qwen3_moe":
        settings |= {
            "num_experts": whole("expert_count"),
            "num_experts_per_tok": whole("expert_used_count"),
            "moe_intermediate_size": whole("expert_feed_forward_length"),
        }
    settings["rope_scaling"] = _scaling_of(source, theirs, head_dim, settings["rope_theta"])
    return validate(ModelConfig, settings, str(source.path))


def _refuse_changes(source: GGUFFile, theirs: str) -> None:
    said = {name: source.settings.get(f"{theirs}.{name}") for name in _NEUTRAL}
    changed = [name for name, value in said.items() if value not in _NEUTRAL[name]]
    if theirs != "qwen3moe" and source.settings.get(f"{theirs}.expert_count"):
        changed.append("expert_count")
    if changed:
        raise UserError(
            f"{source.path} says {', '.join(f'{theirs}.{name}' for name in changed)}: that changes what the"
            " model computes and is not supported"
        )


def _scaling_of(source: GGUFFile, theirs: str, head_dim: int, theta: float) -> dict[str, Any] | None:
    """How rotations are stretched: by settings, or by factors that were worked out before. As in llama.cpp, a
    factor whose kind is not said is a linear one."""
    prefix, settings = f"{theirs}.rope.scaling.", source.settings.items()
    said = {name.removeprefix(prefix): value for name, value in settings if name.startswith(prefix)}
    said.pop("finetuned", None)
    if said.get("attn_factor") == 1.0:
        del said["attn_factor"]
    factor = said.pop("factor", 0) or 1.0
    kind = said.pop("type", "none" if factor == 1.0 else "linear")
    unread = said.keys() - {"original_context_length"}
    if ROPE_FACTORS in source.tensors and kind == "none" and not unread:
        return _llama3_of(source, head_dim, theta, said.get("original_context_length"))
    worked_out = any(name == ROPE_FACTORS or "rope_factors" in name for name in source.tensors)
    if kind == "linear" and not said and not worked_out:
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn" and not worked_out:
        names = {
            "original_context_length": "original_max_position_embeddings",
            "yarn_beta_fast": "beta_fast",
            "yarn_beta_slow": "beta_slow",
        }
        if said.keys() <= names.keys():
            return {"rope_type": "yarn", "factor": factor, **{names[n]: v for n, v in said.items()}}
    if kind != "none" or unread or worked_out:
        raise UserError(
            f"{source.path}: rotary positions of the kind '{kind}' ({said}) are not supported, expected"
            " linear, yarn or Llama 3's factors, for texts of all lengths"
        )
    return None


def _llama3_of(source: GGUFFile, head_dim: int, theta: float, original: Any) -> dict[str, Any]:
    """The settings that give a file's factors, which states the factors alone: all Llamas from 3.1 on agree
    in the rest. Others than these are refused."""
    factors = source.tensor(ROPE_FACTORS, torch.float32).flatten()
    if len(factors) != head_dim // 2:
        raise DamagedFile(f"{source.path}: {ROPE_FACTORS} has {len(factors)} numbers for heads of {head_dim}")
    scaling = Llama3Rope(
        factor=max(1.0, round(float(factors.max()), 4)),
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=original if isinstance(original, int) and original > 0 else 8192,
    )
    cpu = torch.device("cpu")
    plain, stretched = (Rope(theta, head_dim, way).frequencies(cpu) for way in (None, scaling))
    if not torch.allclose(factors, plain / stretched, rtol=1e-3):
        raise UserError(
            f"{source.path}: {ROPE_FACTORS} is none of Llama 3's ways to stretch rotary positions"
        )
    return scaling.model_dump()
