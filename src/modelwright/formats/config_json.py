"""config.json, both ways: what a Hugging Face folder says about its network, as our `ModelConfig` and back.

Two spellings of some settings are written, since readers disagree: transformers 5 looks for
`rope_parameters` and `dtype`, transformers 4 for `rope_theta`, `rope_scaling` and `torch_dtype`. A folder
with one of them only loads silently wrong in the other.

What we read is a list of what we compute: a class that is not on it, and a setting that would change what is
computed, are refused by name. All else (initialisers, dropout in training, token ids) is left to others.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from modelwright.base.config import validate
from modelwright.base.errors import DamagedFile, UserError, closest
from modelwright.model.config import EXPERT_FIELDS, OPTIONAL_BIASES, ModelConfig

ARCHITECTURES = {
    "qwen3": "Qwen3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "gemma": "GemmaForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}
"""Ours -> the class that computes the same."""
SPELLED_OTHERWISE = {"Phi3ForCausalLM": "mistral"}
"""Classes that compute what one of ours computes, from weights stored otherwise. Saved, they are of ours."""
_READ = {theirs: ours for ours, theirs in ARCHITECTURES.items()} | SPELLED_OTHERWISE

_BEYOND_US = {
    "Gemma2ForCausalLM": "capped logits, norms behind each part, windows in every other layer",
    "Gemma3ForCausalLM": "norms behind each part, windows in some layers with rotations of their own",
    "Gemma3ForConditionalGeneration": "images, and the layers of Gemma3ForCausalLM",
    "MixtralForCausalLM": "experts without QK-norm",
    "Qwen2MoeForCausalLM": "experts that every token passes (shared experts)",
    "DeepseekV2ForCausalLM": "multi-head latent attention and shared experts",
    "DeepseekV3ForCausalLM": "multi-head latent attention and shared experts",
    "GptOssForCausalLM": "attention sinks, clamped gates and windows in every other layer",
    "SmolLM3ForCausalLM": "layers without rotary positions",
    "Olmo2ForCausalLM": "norms behind each part",
    "GraniteForCausalLM": "multipliers on embeddings, residuals and logits",
    "CohereForCausalLM": "LayerNorm, attention and feed-forward network side by side",
    "PhiForCausalLM": "LayerNorm, rotations of a part of each head",
    "StableLmForCausalLM": "LayerNorm, rotations of a part of each head",
    "Starcoder2ForCausalLM": "LayerNorm, feed-forward networks without gates",
    "GPT2LMHeadModel": "learned positions, LayerNorm",
    "GPTNeoXForCausalLM": "LayerNorm, rotations of a part of each head",
    "FalconForCausalLM": "LayerNorm, attention and feed-forward network side by side",
    "MambaForCausalLM": "state spaces instead of attention",
    "LlamaForSequenceClassification": "a head that classifies instead of one that predicts tokens",
}
"""Well-known classes, and what they have that we do not compute."""

_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "alibi": (None, False),
    "attention_multiplier": (None,),
    "attn_logit_softcapping": (None,),
    "clip_qkv": (None,),
    "embedding_multiplier": (None, 1),
    "final_logit_softcapping": (None,),
    "logit_scale": (None, 1),
    "logits_scaling": (None, 1),
    "no_rope_layers": (None, []),
    "parallel_residual": (None, False),
    "partial_rotary_factor": (None, 1),
    "query_pre_attn_scalar": (None,),
    "residual_multiplier": (None, 1),
    "rope_interleaved": (None, False),
    "use_bidirectional_attention": (None, False),
    "use_qk_norm": (None, False),
}
"""Settings that change what is computed -> values with which they do not."""

_KINDS: Mapping[str, type] = {
    "architectures": list,
    "head_dim": int,
    "hidden_size": int,
    "layer_types": list,
    "max_window_layers": int,
    "num_attention_heads": int,
    "num_hidden_layers": int,
    "num_key_value_heads": int,
    "rope_parameters": dict,
    "rope_scaling": dict,
    "sliding_window": int,
}
_ABSURD = 1 << 26
"""No size of a model is as large."""
_SILU, _GELU = ("silu", "swish"), ("gelu_pytorch_tanh", "gelu")
"""Names of activations. Gemma's first files say `gelu`, and mean its approximation by tanh."""
DEFAULT_WINDOW = 4096
"""What transformers takes where a Mistral or a windowed Qwen does not say how wide."""
_SCALED = ("linear", "llama3", "yarn")


def read_config(raw: Any, path: Path) -> ModelConfig:
    """The network that the content of a config.json describes, in either spelling; what this project cannot
    run is refused by name. `path` is for messages."""
    sizes = {"hidden_size", "num_attention_heads", "num_hidden_layers"}
    if not isinstance(raw, dict) or not (raw.get("architectures") or sizes <= raw.keys()):
        raise DamagedFile(f"{path} is no model's configuration: expected hidden_size, num_attention_heads...")
    _check_kinds(raw, path)
    stated = str((raw.get("architectures") or ["(none)"])[0])
    architecture = _READ.get(stated) or _refuse(stated, path)
    if missing := sorted(name for name in sizes if not 0 < (raw.get(name) or 0) < _ABSURD):
        raise DamagedFile(f"{path} says no usable {', '.join(missing)}")
    _refuse_changes(raw, path)
    _check_activation(architecture, raw, path)
    heads = raw["num_attention_heads"]
    known = ModelConfig.model_fields.keys() - EXPERT_FIELDS - OPTIONAL_BIASES.keys()
    settings = {name: raw[name] for name in known if name in raw}
    settings |= _experts_of(raw) if architecture == "qwen3_moe" else {}
    settings |= _biases_of(architecture, raw)
    settings |= _rotations_of(raw, path)
    settings |= {
        "architecture": architecture,
        "head_dim": raw.get("head_dim") or raw["hidden_size"] // heads,
        "num_key_value_heads": raw.get("num_key_value_heads") or heads,
        "tie_word_embeddings": raw.get("tie_word_embeddings", architecture == "gemma"),
        "sliding_window": _window_of(architecture, stated, raw, path),
    }
    return validate(ModelConfig, settings, str(path))


def _check_kinds(raw: Mapping[str, Any], path: Path) -> None:
    """What is computed with here is of the kind that it should be; the rest, `ModelConfig` checks."""
    for name, kind in _KINDS.items():
        value = raw.get(name)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise DamagedFile(f"{path} says {value!r:.80} of {name}: expected {kind.__name__}")


def _refuse(stated: str, path: Path) -> str:
    """Say what a class has that we lack, or which one was probably meant."""
    lacking, near = _BEYOND_US.get(stated), closest(stated, _READ)
    if lacking:
        reason = f"it has {lacking}, which this project does not compute"
    else:
        reason = f"did you mean {near}?" if near else "what it computes is not known here"
    raise UserError(
        f"{path}: architecture {stated} is not supported: {reason}. Supported: {', '.join(sorted(_READ))}"
    )


def _refuse_changes(raw: Mapping[str, Any], path: Path) -> None:
    changed = [name for name, neutral in _NEUTRAL.items() if raw.get(name) not in neutral]
    if changed:
        said = ", ".join(f"{name}: {raw[name]}" for name in changed)
        raise UserError(f"{path} says {said}: that changes what the model computes and is not supported")


def _check_activation(architecture: str, raw: Mapping[str, Any], path: Path) -> None:
    known = _GELU if architecture == "gemma" else _SILU
    stated = raw.get("hidden_activation") or raw.get("hidden_act") or known[0]
    if stated not in known:
        raise UserError(f"{path}: activation {stated} is not supported, expected {known[0]}")


def _biases_of(architecture: str, raw: Mapping[str, Any]) -> dict[str, bool]:
    """Of the classes that leave biases open; qwen2's are fixed, whatever is said."""
    return {name: bool(raw.get(name)) and architecture in those for name, those in OPTIONAL_BIASES.items()}


def _rotations_of(raw: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """`rope_theta` and `rope_scaling`. A `rope_scaling` goes before `rope_parameters`, as in transformers 5:
    users add it to folders by hand."""
    parameters = raw.get("rope_parameters") or {}
    stated = dict(raw.get("rope_scaling") or parameters)
    theta = stated.pop("rope_theta", None) or raw.get("rope_theta") or parameters.get("rope_theta", 10_000.0)
    old_name = stated.pop("type", None)
    kind = stated.pop("rope_type", None) or old_name or "default"
    _refuse_changes({"partial_rotary_factor": stated.pop("partial_rotary_factor", None)}, path)
    if kind == "default" and not any(isinstance(value, dict) for value in stated.values()):
        return {"rope_theta": theta, "rope_scaling": None}
    if kind not in _SCALED:
        raise UserError(
            f"{path}: rotary positions of the kind '{kind}' ({stated}) are not supported, expected one of"
            f" {', '.join(_SCALED)}, the same for all layers and for texts of all lengths"
        )
    original = stated.pop("original_max_position_embeddings", None)
    if kind != "linear":
        longest = raw.get("max_position_embeddings")
        stated["original_max_position_embeddings"] = (
            raw.get("original_max_position_embeddings") or original or longest
        )
    given = {name: value for name, value in stated.items() if value is not None}
    return {"rope_theta": theta, "rope_scaling": {"rope_type": kind, **given}}


def _window_of(architecture: str, stated: str, raw: Mapping[str, Any], path: Path) -> int | None:
    """The window of all layers. Mistral and Phi-3 state it; Qwen also states whether it is used, and from
    which layer on. Models whose layers differ in it are refused."""
    if architecture in ("llama", "gemma"):
        return None
    if architecture != "mistral" and not raw.get("use_sliding_window"):
        return None
    stated_first = raw.get("max_window_layers")
    first = (28 if stated_first is None else stated_first) if architecture in ("qwen2", "qwen3") else 0
    sliding = {first < raw["num_hidden_layers"], first <= 0}  # of the last layer, and of the first
    if kinds := raw.get("layer_types"):
        sliding = {kind == "sliding_attention" for kind in kinds}
    window = raw.get("sliding_window", None if stated in SPELLED_OTHERWISE else DEFAULT_WINDOW)
    if len(sliding) > 1 and window:
        raise UserError(
            f"{path}: only some layers attend in a sliding window ({window}), which is not supported"
        )
    return window if True in sliding else None


def _experts_of(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json says of a mixture. transformers 5 writes `num_local_experts`; what is left out has the
    defaults of its Qwen3MoeConfig."""
    stated = {name: raw[name] for name in EXPERT_FIELDS if raw.get(name) is not None}
    defaults = {"norm_topk_prob": False, "router_aux_loss_coef": 0.001}
    return {**defaults, "num_experts": raw.get("num_local_experts", 0), **stated}


def config_to_json(config: ModelConfig, dtype: torch.dtype, special: Mapping[str, Any]) -> dict[str, Any]:
    """config.json with both spellings of what readers disagree on."""
    dtype_name = str(dtype).removeprefix("torch.")
    elsewhere = {"architecture", "sliding_window", "rope_scaling", *EXPERT_FIELDS}
    activation = (_GELU if config.gelu else _SILU)[0]
    return {
        "architectures": [ARCHITECTURES[config.architecture]],
        "model_type": config.architecture,
        **config.model_dump(mode="json", exclude=elsewhere),
        **_window_to_json(config),
        **_experts_to_json(config),
        "rope_scaling": _scaling_to_json(config) if config.rope_scaling else None,
        "rope_parameters": rotations_to_json(config),
        "hidden_act": activation,
        **({"hidden_activation": activation} if config.gelu else {}),
        "attention_bias": config.qkv_bias,
        "attention_dropout": 0.0,
        "use_cache": True,
        "torch_dtype": dtype_name,
        "dtype": dtype_name,
        **special,
    }


def _scaling_to_json(config: ModelConfig) -> dict[str, Any]:
    scaling = config.rope_scaling
    return scaling.model_dump(mode="json", exclude_none=True) if scaling else {"rope_type": "default"}


def rotations_to_json(config: ModelConfig) -> dict[str, Any]:
    """`rope_parameters`, as transformers 5 spells all that concerns rotations."""
    return {"rope_theta": config.rope_theta, **_scaling_to_json(config)}


def _window_to_json(config: ModelConfig) -> dict[str, Any]:
    """For Mistral always, whose readers take 4,096 where nothing is said."""
    if config.architecture == "mistral":
        return {"sliding_window": config.sliding_window}
    if config.sliding_window is None:
        return {"use_sliding_window": False}
    return {"use_sliding_window": True, "sliding_window": config.sliding_window, "max_window_layers": 0}


def _experts_to_json(config: ModelConfig) -> dict[str, Any]:
    if not config.num_experts:
        return {}
    stated = config.model_dump(mode="json", include=set(EXPERT_FIELDS))
    return {**stated, "num_local_experts": config.num_experts, "output_router_logits": False}


_NOT_CARRIED = frozenset(
    {
        *("_name_or_path", "auto_map", "transformers_version", "quantization_config"),
        *("layer_types", "max_window_layers", "use_sliding_window", "sliding_window"),
        *("num_local_experts", "num_experts", "original_max_position_embeddings", "partial_rotary_factor"),
    }
)
"""Of another folder's config.json: what is no longer true of ours, or what would run its code."""


def carried_over(raw: Mapping[str, Any], made: Mapping[str, Any]) -> dict[str, Any]:
    """What the config.json of the folder that a model came from says besides what we write: other tools may
    need it."""
    return {name: value for name, value in raw.items() if name not in made and name not in _NOT_CARRIED}
