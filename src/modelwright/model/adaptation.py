"""Which layers of a model get a change that is trained, and of which kind; and the change, once it is."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Literal

import torch
from pydantic import Field

from modelwright.base.config import Config
from modelwright.base.errors import ConfigError, UserError
from modelwright.base.seeding import derive
from modelwright.model.adapters import Adapter, LowRank, changeable, check_fit, expert_stacks
from modelwright.model.low_rank import LowRankLinear
from modelwright.model.rows import rows_of
from modelwright.model.stacks import LowRankStack
from modelwright.model.transformer import Transformer

RATE = 3e-4
"""Learning rate of adapters where nobody says anything: the best for 14 of 27 models in the sweep of
tinker-cookbook, ten times that of all weights (LoRA Without Regret); 3e-3 diverged there."""


class AdapterConfig(Config):
    """How an adapter is shaped."""

    name: str = Field(default="adapter", min_length=1)
    """What it is called in manifests."""
    kind: Literal["lora", "dora"] = "lora"
    """dora: the lengths of rows are trained apart from their directions (model/low_rank.py)."""
    rank: int = Field(default=16, gt=0)
    """Rows of A, columns of B."""
    alpha: float = Field(default=32.0, gt=0)
    """The change is scaled by alpha / rank."""
    stabilised: bool = False
    """By alpha / sqrt(rank) instead (rsLoRA, arXiv 2312.03732): for ranks of 64 and more."""
    layers: tuple[str, ...] = Field(default=("*",), min_length=1)
    """Patterns of the layers that are changed, by their last name ("q_proj") or their whole one
    ("model.layers.1?.mlp.*"). All linear ones inside the blocks but experts, where nothing is said; experts
    are reached by patterns that name them ("*.experts.*"), each with a change of its own."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the numbers that A is given which are set to zero in training."""

    @property
    def scale(self) -> float:
        """What the change is multiplied by."""
        return self.alpha / (self.rank**0.5 if self.stabilised else self.rank)


def adapt(model: Transformer, config: AdapterConfig, seed: int, begin: Adapter | None = None) -> None:
    """Freeze `model` and put a change beside its layers, in place. Where an adapter is given to `begin` with,
    that decides layers, ranks, scales and kind, and the settings those of dropout alone."""
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    shapes, stacks = changeable(model), expert_stacks(model)
    if begin is not None:
        check_fit(config.name, begin, shapes)
    chosen = begin.layers if begin is not None else dict.fromkeys(chosen_layers(config, tuple(shapes)))
    for name, change in chosen.items():
        rank, scale, dora = config.rank, config.scale, config.kind == "dora"
        if change is not None:
            rank, scale, dora = change.a.shape[-2], change.scale, change.magnitude is not None
        settings = {"dropout": config.dropout, "seed": derive(seed, "dropout", name)}
        if name in stacks:
            _refuse_for_experts(config, dora)
            made = LowRankStack(stacks[name], rank, scale)
        else:
            made = LowRankLinear(model.get_submodule(name), rank, scale, dora=dora, **settings)
        if change is None:
            made.initialize(generator)
        else:
            _take_over(made, change)
        model.set_submodule(name, made)


def check_layers(model: Transformer, config: AdapterConfig) -> None:
    """Raise ConfigError where `model` (its weights are not read) lacks layers that are to be changed, or such
    a change is not for them."""
    chosen = chosen_layers(config, tuple(changeable(model)))
    if not expert_stacks(model).keys().isdisjoint(chosen):
        _refuse_for_experts(config, config.kind == "dora")


def chosen_layers(config: AdapterConfig, names: tuple[str, ...]) -> list[str]:
    """Those of `names` that a pattern fits; a pattern that fits none is refused."""
    for pattern in config.layers:
        if not any(_fits(name, pattern) for name in names):
            assert names, "a model has linear layers"
            kinds = sorted({name.rpartition(".")[2] for name in names})
            raise ConfigError(
                f"adapter.layers: '{pattern}' fits no layer that can be changed. Expected a pattern of last"
                f" names ({', '.join(kinds)}) or of whole ones, such as {names[0]}"
            )
    return [name for name in names if any(_fits(name, pattern) for pattern in config.layers)]


def _refuse_for_experts(config: AdapterConfig, dora: bool) -> None:
    if dora or config.dropout:
        raise ConfigError(
            f"adapter.{'kind: dora' if dora else 'dropout'} is not for experts: leave it out, or name layers"
            " without experts in adapter.layers"
        )


def _fits(name: str, pattern: str) -> bool:
    if ".experts." in name and "experts" not in pattern:
        return False
    return fnmatchcase(name, pattern) or fnmatchcase(name.rpartition(".")[2], pattern)


@torch.no_grad()
def _take_over(layer: LowRankLinear | LowRankStack, change: LowRank) -> None:
    layer.a.copy_(change.a)
    layer.b.copy_(change.b)
    if isinstance(layer, LowRankLinear) and layer.magnitude is not None and change.magnitude is not None:
        layer.magnitude.copy_(change.magnitude)


def changed_layers(model: Transformer) -> Mapping[str, LowRankLinear | LowRankStack]:
    """The layers that `adapt` changed, by name."""
    kinds = (LowRankLinear, LowRankStack)
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, kinds)}


@torch.no_grad()
def adapter_of(model: Transformer) -> Adapter:
    """What the layers of an adapted model have learned, in fp32 on the CPU."""
    layers = changed_layers(model)
    if not layers:
        raise UserError("this model has no adapter: none of its layers was given one")
    return Adapter({name: _learned(layer) for name, layer in layers.items()}, rows_of(model))


def _learned(layer: LowRankLinear | LowRankStack) -> LowRank:
    lengths = layer.magnitude if isinstance(layer, LowRankLinear) else None
    magnitude = None if lengths is None else lengths.detach().cpu().clone()
    return LowRank(layer.a.detach().cpu().clone(), layer.b.detach().cpu().clone(), layer.scale, magnitude)
