"""What of a model is trained: all of it, some of it, or an adapter beside it; and what is left of that.

An adapter leaves `adapter/`, a folder of PEFT, and `model/`, where it is merged into the weights that it was
trained beside: into dequantized ones where these were quantized, never into 4 bits. The merged folder is read
again and measured, and a loss that has risen by more than a stated share refuses it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from modelwright.base.config import Config
from modelwright.base.device import Device
from modelwright.base.errors import ConfigError, GateRefused
from modelwright.base.files import atomic_directory, read_json, sha256_file
from modelwright.base.run import Run
from modelwright.base.schema import Json
from modelwright.base.world import join
from modelwright.compression.nf4 import nf4_linear
from modelwright.formats import peft
from modelwright.formats.frozen import load_frozen
from modelwright.formats.huggingface import (
    CONFIG,
    copy_tokenizer,
    held_weights,
    load_config,
    load_model,
    save_model,
)
from modelwright.formats.merging import put_adapter, without_weights
from modelwright.formats.peft_experts import refuse_unreadable
from modelwright.model.adaptation import RATE, AdapterConfig, adapt, adapter_of, check_layers
from modelwright.model.low_rank import LowRankLinear
from modelwright.model.quantized import Int8Linear, quantize_rows
from modelwright.model.sharding import tensor_plan
from modelwright.model.stacks import LowRankStack
from modelwright.model.transformer import Transformer
from modelwright.stages.new_tokens import NewTokens
from modelwright.stages.training import beginning, imported, keep_model
from modelwright.training.compute import ComputeConfig
from modelwright.training.spread import Spread

ADAPTER = "adapter"
"""Folder of what was trained beside the model."""


class FreezeConfig(Config):
    """What keeps the values it has."""

    embeddings: bool = False
    """The embedding, and with it a head that is tied to it."""
    layers: int | tuple[str, ...] = ()
    """The first n blocks, or patterns of parameters' names ("model.layers.*.mlp.*", "model.norm.*")."""


class Trainable(Config):
    """What is trained. Nothing said: all weights."""

    adapter: AdapterConfig | None = None
    """A low-rank change beside frozen weights, which leaves `adapter/` as well as the merged `model/`."""
    begin_adapter: Path | None = None
    """A folder of PEFT whose adapter training goes on with; that decides its layers, ranks and kind."""
    weights: Literal["auto", "nf4", "int8"] = "auto"
    """How weights beside an adapter are held. auto: in the format of the products. nf4: in 4.13 bits (QLoRA,
    arXiv 2305.14314). int8: in 8 bits, a scale for each row."""
    freeze: FreezeConfig = FreezeConfig()
    """What is not trained, where there is no adapter."""
    merge_margin: float = Field(default=0.01, ge=0)
    """By which share the loss on held-out data may rise when an adapter is merged."""

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_adapters(cls, settings: Any) -> Any:
        """Adapters are trained by AdamW, at a rate of their own, where nothing else is said."""
        if not isinstance(settings, dict) or not settings.get("adapter"):
            return settings
        stated = settings.get("optimizer") or {}
        stated = stated if isinstance(stated, dict) else stated.model_dump(exclude_unset=True)
        defaults = {"kind": "adamw"} | ({} if stated.get("kind") == "muon" else {"learning_rate": RATE})
        return {**settings, "optimizer": defaults | stated}

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.adapter is None and (self.weights != "auto" or self.begin_adapter):
            raise ValueError(
                f"weights: {self.weights} and begin_adapter go with an adapter: quantized weights cannot be"
                " trained themselves. Say adapter: {rank: 16}, or leave them out"
            )
        if self.adapter is not None and self.freeze != FreezeConfig():
            raise ValueError("beside an adapter all weights are frozen: leave out freeze, or adapter")
        return self


def check_trainable(config: Trainable, compute: ComputeConfig, stations: Mapping[str, Any]) -> None:
    """Raise ConfigError where the network that a life of `stations`, verb -> settings, begins with has not
    what is to be trained, or cannot be cut for it."""
    shape = beginning(stations)
    if shape is None:
        return
    if folder := imported(stations):
        _refuse_quantized(folder)
    if config.adapter is None:
        tensor_plan(shape, compute.tensor_parallel)
    with torch.device("meta"):
        model = Transformer(shape)
    if config.adapter is None:
        freeze(model, config.freeze)
    elif config.begin_adapter is None:
        check_layers(model, config.adapter)


def _refuse_quantized(folder: Path) -> None:
    if read_json(folder / CONFIG).get("quantization_config"):
        raise ConfigError(
            f"{folder} is quantized: its weights cannot be trained, and no adapter is merged into them. Train"
            " the model that it was made from; where memory is short, an adapter with weights: nf4 or int8"
        )


def load_to_train(config: Trainable, parent: Path, device: Device, run: Run, new: NewTokens) -> Transformer:
    """The model with what is to be trained of it, and with rows for new tokens; the log says how much that
    is."""
    _refuse_quantized(parent)
    if config.adapter is None:
        model = load_model(parent)
        model.compute_dtype = device.dtype
        new.widen(model)
        freeze(model, config.freeze)
    else:
        quantize = {"auto": None, "nf4": nf4_linear, "int8": _int8_linear}[config.weights]
        model = load_frozen(parent, device.dtype, quantize)
        new.widen(model)
        begin = peft.load_adapter(config.begin_adapter) if config.begin_adapter else None
        adapt(model, config.adapter, run.seed, begin)
        refuse_unreadable(adapter_of(model).layers)
        new.learn(model, begin)
    learn = sum(p.numel() for p in model.parameters() if p.requires_grad)
    held = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    if learn < model.num_parameters():
        run.log(f"{learn:,} numbers are trained; the model is held in {held:,} bytes")
    return model


def _int8_linear(weight: Tensor, bias: bool) -> Int8Linear:
    made = Int8Linear(weight.shape[1], weight.shape[0], bias)
    made.weight, made.weight_scale = quantize_rows(weight)
    return made


def freeze(model: Transformer, config: FreezeConfig) -> None:
    """Take from training what the settings name; a pattern that fits nothing is refused."""
    chosen = ["model.embed_tokens.*"] if config.embeddings else []
    if isinstance(config.layers, int):
        count = len(model.model.layers)
        if not 0 <= config.layers <= count:
            raise ConfigError(f"freeze.layers is {config.layers}, and the model has {count} blocks")
        chosen += [f"model.layers.{number}.*" for number in range(config.layers)]
    else:
        chosen += config.layers
    names = dict(model.named_parameters())
    for pattern in chosen:
        fitting = [name for name in names if fnmatchcase(name, pattern)]
        if not fitting:
            raise ConfigError(f"freeze.layers: '{pattern}' fits no parameter, such as {next(iter(names))}")
        for name in fitting:
            names[name].requires_grad_(False)
    if not any(p.requires_grad for p in names.values()):
        raise ConfigError("freeze leaves nothing to train: name fewer layers")


def keep_trained(
    config: Trainable,
    run: Run,
    spread: Spread,
    model: Transformer,
    parent: Path,
    new: NewTokens,
    measured: Mapping[str, Any],
    measure: Callable[[Transformer], Mapping[str, float]],
) -> dict[str, Any]:
    """Write what was trained: `model/`, and beside it `adapter/` where it is one. For the manifest: what the
    adapter is, and the loss before and after it was merged: before, `measured` has it."""
    if config.adapter is None:
        keep_model(run, spread, model, new.folder)
        return {}
    if run.keeps:
        _write(run, model, parent, new)
    found = {ADAPTER: config.adapter.name, **_lineage(config)}
    found |= {"adapter_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad)}
    return found | _gate(config, run, model, measured, measure)


def _write(run: Run, model: Transformer, parent: Path, new: NewTokens) -> None:
    """The adapter, and the model that it is merged into."""
    adapter = adapter_of(model)
    weights = held_weights(parent, model.config)
    plain = without_weights(put_adapter(weights, adapter, load_config(parent), held_by(model)), parent)
    with atomic_directory(run.dir / ADAPTER) as folder:
        peft.save_adapter(folder, adapter, plain, base=str(parent))
        if new.pieces:
            copy_tokenizer(new.folder, folder)
    with atomic_directory(run.dir / "model") as folder:
        save_model(folder, plain, new.folder, weights)


def held_by(model: Transformer) -> Callable[[str], Tensor | None]:
    """Layer -> its weight in fp32, where `model` holds it in fewer bits than it is stored in."""
    layers = {path.removesuffix(".base"): layer for path, layer in model.named_modules() if _is_packed(layer)}

    def held(name: str) -> Tensor | None:
        return layers[name].weight_in(torch.float32).cpu() if name in layers else None  # type: ignore[operator]

    return held


def _is_packed(layer: nn.Module) -> bool:
    """Whether its weight is held in few bits. Of a change beside such a layer, that is said of its base."""
    in_full = isinstance(layer, nn.Linear | LowRankLinear | LowRankStack)
    return hasattr(layer, "weight_in") and not in_full


def _lineage(config: Trainable) -> dict[str, str]:
    if config.begin_adapter is None:
        return {}
    return {
        "begun_with": str(config.begin_adapter),
        "begun_with_sha256": sha256_file(config.begin_adapter / peft.WEIGHTS),
    }


def _gate(
    config: Trainable,
    run: Run,
    model: Transformer,
    measured: Mapping[str, Any],
    measure: Callable[[Transformer], Mapping[str, float]],
) -> dict[str, float]:
    """Read the merged folder again, and hold its loss against that of the adapter beside its model. The first
    of several processes does, and tells the others."""
    name, after = cast(
        tuple[str, float], join().tell(_measured_merged(run, model, measure) if run.keeps else None)
    )
    before = float(measured[name])
    run.log(f"merged: held-out loss {before:.6g} -> {after:.6g}")
    if not after <= before * (1 + config.merge_margin):
        raise GateRefused(
            f"merging the adapter has raised the loss on held-out data from {before:.6g} to {after:.6g}, by"
            f" more than the share of {config.merge_margin:g} that merge_margin allows. {run.dir / ADAPTER}"
            f" is kept; {run.dir / 'model'} must not be used. Store the base model in fp32, or allow more"
        )
    return {"loss_before_merge": before, "loss_after_merge": after}


@torch.no_grad()
def _measured_merged(
    run: Run, model: Transformer, measure: Callable[[Transformer], Mapping[str, float]]
) -> list[Json]:
    """What is measured, and its value."""
    merged = load_model(run.dir / "model", model.compute_dtype, model.head.device).eval()
    ((name, value),) = measure(merged).items()
    return [name, value]
