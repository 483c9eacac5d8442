"""Models as Hugging Face folders: config.json and safetensors that transformers, vLLM and llama.cpp load.

Two spellings of some settings are written, since readers disagree: transformers 5 looks for
`rope_parameters` and `dtype`, transformers 4 for `rope_theta` and `torch_dtype`. A folder with one
of them only loads silently wrong in the other.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from modelwright.base.config import validate
from modelwright.base.errors import DamagedFile, UserError, did_you_mean
from modelwright.base.files import atomic_path, read_json, write_json
from modelwright.formats import compressed_tensors
from modelwright.formats.experts import as_held, as_stored
from modelwright.model.config import EXPERT_FIELDS, ModelConfig
from modelwright.model.quantized import replace_linears, scheme_of
from modelwright.model.transformer import Transformer

ARCHITECTURES = {
    "qwen3": "Qwen3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}
WEIGHTS = "model.safetensors"
DEFAULT_WINDOW = 4096
"""What transformers takes where a windowed model does not say how wide."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def save_model(
    folder: Path,
    model: Transformer,
    tokenizer_folder: Path | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a whole folder: configuration, weights as they are (fp32 as trained, or quantized), tokenizer
    and its template.

    `weights` are the model's, whole, where it holds but pieces of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(folder / WEIGHTS, as_stored(weights or model.state_dict()))
    special = copy_tokenizer(tokenizer_folder, folder) if tokenizer_folder else {}
    config = config_to_json(model.config, next(model.parameters()).dtype, special)
    if scheme := scheme_of(model):
        config["quantization_config"] = compressed_tensors.describe(scheme)
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", _generation_config(special))


def load_model(
    folder: Path, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> Transformer:
    """Load a folder written by us or by transformers; quantized ones get quantized layers.

    `dtype` is the format that activations are computed in; weights of a full-precision model are
    stored in it too.
    """
    folder = Path(folder)
    config = load_config(folder)
    quantized = read_json(folder / "config.json").get("quantization_config")
    with torch.device("meta"):
        model = Transformer(config, compute_dtype=dtype)
    state = as_held(load_weights(folder))
    if config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    if quantized:
        scheme = compressed_tensors.read_scheme(quantized, folder)
        replace_linears(model, compressed_tensors.quantized_names(state, scheme), scheme)
    _check_names(folder, model, state)
    exact = {name for name, t in state.items() if not t.is_floating_point() or "scale" in name}
    kept = {name: t if name in exact else t.to(dtype) for name, t in state.items()}
    model.load_state_dict(kept, assign=True)
    return model.to(device)


def load_config(folder: Path) -> ModelConfig:
    """Read config.json in either spelling; what this project cannot run is refused by name."""
    path = Path(folder) / "config.json"
    if not path.exists():
        raise UserError(f"{folder} has no config.json: expected a Hugging Face model folder")
    raw = read_json(path)
    if not isinstance(raw, dict) or not {"hidden_size", "num_attention_heads"} <= raw.keys():
        raise DamagedFile(f"{path} is no model's configuration: expected hidden_size, num_attention_heads...")
    names = {value: key for key, value in ARCHITECTURES.items()}
    stated = (raw.get("architectures") or ["(none)"])[0]
    if stated not in names:
        raise UserError(f"{path}: architecture {stated} is not supported.{did_you_mean(stated, names)}")
    rope = raw.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default" or raw.get("rope_scaling"):
        raise UserError(f"{path}: rope scaling {rope or raw['rope_scaling']} is not supported yet")
    if raw.get("hidden_act", "silu") != "silu":
        raise UserError(f"{path}: activation {raw['hidden_act']} is not supported, expected silu")
    heads = raw["num_attention_heads"]
    known = ModelConfig.model_fields.keys() - EXPERT_FIELDS
    settings = {name: raw[name] for name in known if name in raw}
    settings |= _experts_of(raw) if names[stated] == "qwen3_moe" else {}
    settings |= {
        "architecture": names[stated],
        "head_dim": raw.get("head_dim") or raw["hidden_size"] // heads,
        "num_key_value_heads": raw.get("num_key_value_heads") or heads,
        "rope_theta": rope.get("rope_theta", raw.get("rope_theta", 10_000.0)),
        "tie_word_embeddings": raw.get("tie_word_embeddings", False),
        "sliding_window": _window_of(names[stated], raw, path),
    }
    return validate(ModelConfig, settings, str(path))


def _window_of(architecture: str, raw: Mapping[str, Any], path: Path) -> int | None:
    """The window of all layers. Mistral states it; Qwen also states whether it is used, and from which layer
    on. Models whose layers differ in it are refused."""
    if architecture == "llama" or (architecture != "mistral" and not raw.get("use_sliding_window")):
        return None
    layers = range(raw["num_hidden_layers"])
    first = raw.get("max_window_layers", 28) if architecture in ("qwen2", "qwen3") else 0
    sliding = {layer >= first for layer in layers}
    if kinds := raw.get("layer_types"):
        sliding = {kind == "sliding_attention" for kind in kinds}
    window = raw.get("sliding_window", DEFAULT_WINDOW)
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
    return {
        "architectures": [ARCHITECTURES[config.architecture]],
        "model_type": config.architecture,
        **config.model_dump(mode="json", exclude={"architecture", "sliding_window", *EXPERT_FIELDS}),
        **_window_to_json(config),
        **_experts_to_json(config),
        "rope_scaling": None,
        "rope_parameters": {"rope_theta": config.rope_theta, "rope_type": "default"},
        "hidden_act": "silu",
        "attention_bias": config.qkv_bias,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "use_cache": True,
        "torch_dtype": dtype_name,
        "dtype": dtype_name,
        **special,
    }


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


def copy_tokenizer(source: Path, folder: Path) -> dict[str, Any]:
    """Copy the tokenizer's files as they are; return its bos/eos/pad ids for config.json."""
    for name in TOKENIZER_FILES:
        if not (source / name).exists():
            raise UserError(f"{source} has no {name}: expected a tokenizer folder")
        if source.resolve() != folder.resolve():
            shutil.copyfile(source / name, folder / name)
    ids = {token["content"]: token["id"] for token in read_json(folder / "tokenizer.json")["added_tokens"]}
    named = read_json(folder / "tokenizer_config.json")
    found = {role: named.get(f"{role}_token") for role in ("bos", "eos", "pad")}
    return {f"{role}_token_id": ids.get(token) if token else None for role, token in found.items()}


def _generation_config(special: Mapping[str, Any]) -> dict[str, Any]:
    """Stop at the end of a turn, and at the end of the text too."""
    stops = [special[name] for name in ("eos_token_id", "pad_token_id") if special.get(name) is not None]
    return {"do_sample": False, **special, "eos_token_id": stops or None}


def save_weights(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, atomically."""
    with atomic_path(path) as temporary:
        save_file({name: t.detach().contiguous() for name, t in state.items()}, temporary, {"format": "pt"})


def load_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder: one file, or several named by an index."""
    index = folder / f"{WEIGHTS}.index.json"
    names = sorted(set(read_json(index)["weight_map"].values())) if index.exists() else [WEIGHTS]
    state: dict[str, Tensor] = {}
    for name in names:
        path = folder / name
        if path.parent.resolve() != folder.resolve():
            raise DamagedFile(f"{index} names '{name}', which lies outside of {folder}")
        if not path.exists():
            raise UserError(f"{path} is missing")
        state |= load_tensors(path)
    return state


def load_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of one file."""
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise DamagedFile(f"{path} is truncated or no safetensors file: {error}") from error


def _check_names(folder: Path, model: Transformer, state: Mapping[str, Tensor]) -> None:
    expected = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    missing, unknown = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    if missing or unknown:
        raise UserError(
            f"{folder}: the weights do not fit config.json: {len(missing)} missing {missing[:3]}, "
            f"{len(unknown)} unknown {unknown[:3]}"
        )
    for name, shape in expected.items():
        if tuple(state[name].shape) != shape:
            raise UserError(
                f"{folder}: {name} has shape {tuple(state[name].shape)}, config.json implies {shape}"
            )
