"""LoRA adapters as folders of PEFT: adapter_config.json beside adapter_model.safetensors.

    base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight    (r, in)
    base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight    (out, r)
    base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector    (out,), in DoRA

Beside these, rows of the embedding and of the head (`peft_rows`). The tensors say which layers are changed;
the configuration, how they are scaled. What we would compute otherwise than PEFT is refused by name, and so
is every tensor that is neither.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from modelwright.base.errors import DamagedFile, UserError
from modelwright.base.files import read_json, write_json
from modelwright.formats import peft_experts, peft_rows
from modelwright.formats.huggingface import load_tensors, save_weights
from modelwright.model.adapters import Adapter, LowRank, adaptable_layers, expert_stacks
from modelwright.model.transformer import Transformer

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
_TENSOR = re.compile(re.escape(PREFIX) + r"(.+)\.lora_(?:(A|B)\.weight|(magnitude)_vector)")
_NOT_HONOURED = (
    "alora_invocation_tokens",
    "arrow_config",
    "fan_in_fan_out",
    "layer_replication",
    "lora_bias",
    "monteclora_config",
    "use_bdlora",
    "use_qalora",
)
"""Settings of PEFT that change what an adapted layer computes, or change more than what is read here."""
_MERGE = "merge it into its model with PEFT's merge_and_unload, and load that model"


def load_adapter(folder: Path) -> Adapter:
    """Read a folder that PEFT (or `save_adapter`) wrote."""
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(f"{folder} has no {name}: expected a LoRA adapter as PEFT saves it")
    config = read_json(folder / CONFIG)
    _check_kind(folder, config)
    parts: dict[str, dict[str, Tensor]] = {}
    tensors = load_tensors(folder / WEIGHTS)
    rows, unties = peft_rows.take(tensors, config, PREFIX, folder / CONFIG)
    for name, tensor in tensors.items():
        found = _TENSOR.fullmatch(name)
        kind = (found[2] or found[3]) if found else ""
        if found is None or tensor.dim() != (1 if kind == "magnitude" else 2):
            raise UserError(
                f"{folder / WEIGHTS}: {name} {tuple(tensor.shape)} is no A or B of a linear layer, and no"
                " row of the embedding or the head. Train the adapter with target_modules that are linear"
                f" layers only, or {_MERGE}."
            )
        parts.setdefault(found[1], {})[kind] = tensor
    if not parts:
        raise DamagedFile(f"{folder / WEIGHTS} holds no tensors: expected lora_A and lora_B of some layers")
    in_one = peft_experts.take_in_one(parts, partial(_rank_and_scale, config), folder / WEIGHTS)
    layers = {layer: _low_rank(folder, config, layer, each) for layer, each in parts.items()}
    return Adapter(peft_experts.stacked(layers, folder / WEIGHTS) | in_one, rows, unties)


def _check_kind(folder: Path, config: Any) -> None:
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else config
        raise UserError(f"{folder / CONFIG} describes an adapter of kind {kind}: expected LORA")
    refused = [f"{name}: {config[name]}" for name in _NOT_HONOURED if config.get(name)]
    if config.get("bias", "none") != "none":
        refused.append(f"bias: {config['bias']}")
    if refused:
        raise UserError(f"{folder / CONFIG} asks for {', '.join(refused)}, which is not supported: {_MERGE}.")


def _low_rank(folder: Path, config: Mapping[str, Any], layer: str, parts: Mapping[str, Tensor]) -> LowRank:
    if parts.keys() != {"A", "B", *(["magnitude"] if config.get("use_dora") else [])}:
        raise DamagedFile(
            f"{folder / WEIGHTS}: of {layer} there is only lora_{'/'.join(parts)}, where {CONFIG} says"
            f" use_dora: {bool(config.get('use_dora'))}"
        )
    rank, scale = _rank_and_scale(config, layer)
    ranks = parts["A"].shape[0], parts["B"].shape[1]
    if ranks != (rank, rank):
        raise DamagedFile(f"{folder}: A and B of {layer} have ranks {ranks}, {CONFIG} says {rank}")
    return LowRank(parts["A"], parts["B"], scale, parts.get("magnitude"))


def _rank_and_scale(config: Mapping[str, Any], layer: str) -> tuple[int, float]:
    rank = _setting(config, "rank_pattern", "r", layer)
    stabilised = bool(config.get("use_rslora"))
    scale = _setting(config, "alpha_pattern", "lora_alpha", layer) / (rank**0.5 if stabilised else rank)
    return int(rank), scale


def _setting(config: Mapping[str, Any], pattern: str, default: str, layer: str) -> float:
    """A layer's rank or alpha: of the first pattern that matches the end of its name, or that of all."""
    patterns = config.get(pattern) or {}
    try:
        found = [value for key, value in patterns.items() if re.fullmatch(rf"(.*\.)?({key})", layer)]
    except re.error as error:
        raise DamagedFile(f"{CONFIG}: {pattern} is no regular expression: {error}") from error
    value = found[0] if found else config.get(default)
    if not isinstance(value, int | float) or value <= 0:
        raise UserError(f"{CONFIG}: {default} of {layer} is {value!r}, expected a positive number")
    return value


def save_adapter(folder: Path, adapter: Adapter, model: Transformer, base: str = "") -> None:
    """Write an adapter of `model` as PEFT reads it; `base` is where it finds that model."""
    folder.mkdir(parents=True, exist_ok=True)
    changes = peft_experts.singly(adapter.layers)
    tensors = {f"{PREFIX}{layer}.lora_A.weight": change.a for layer, change in changes.items()}
    tensors |= {f"{PREFIX}{layer}.lora_B.weight": change.b for layer, change in changes.items()}
    lengths = {layer: change.magnitude for layer, change in changes.items() if change.magnitude is not None}
    tensors |= {f"{PREFIX}{layer}.lora_magnitude_vector": length for layer, length in lengths.items()}
    rows, tied = adapter.rows, model.config.tie_word_embeddings
    tensors |= {f"{PREFIX}{name}": tensor for name, tensor in peft_rows.tensors(rows, tied=tied).items()}
    save_weights(folder / WEIGHTS, tensors)
    ranks = {layer: change.a.shape[0] for layer, change in changes.items()}
    alphas = {layer: change.scale * ranks[layer] for layer, change in changes.items()}
    first = next((layer for layer in changes if layer not in adapter.layers), next(iter(changes)))
    rank, alpha = ranks[first], alphas[first]  # those of experts, which PEFT has no patterns for
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": _whole(alpha),
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": bool(lengths),
        "target_modules": _targets(set(changes), model),
        "rank_pattern": {re.escape(layer): r for layer, r in ranks.items() if r != rank},
        "alpha_pattern": {re.escape(layer): _whole(a) for layer, a in alphas.items() if a != alpha},
        **peft_rows.settings(rows, tied=tied),
    }
    write_json(folder / CONFIG, config)


def _whole(value: float) -> float:
    """PEFT's alpha is a whole number, where it is one."""
    return round(value) if abs(value - round(value)) < 1e-9 else value


def _targets(changed: set[str], model: Transformer) -> list[str]:
    """The kinds of layers ("q_proj"), if all of each kind are changed; else every one by its whole name."""
    kinds = {layer.rpartition(".")[2] for layer in changed}
    experts = range(model.config.num_experts)
    stacks = (name.rpartition(".") for name in expert_stacks(model))
    every = {*adaptable_layers(model), *(f"{at}.{n}.{kind}" for at, _, kind in stacks for n in experts)}
    all_of_them = {layer for layer in every if layer.rpartition(".")[2] in kinds}
    return sorted(kinds if all_of_them == changed else changed)
