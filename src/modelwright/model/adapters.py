"""LoRA (arXiv 2106.09685): a small change of a model, y += scale x B (A x) in some of its linear layers, and
many such changes of one model side by side.

The model's own layers stay what they are, quantized or not: a forward hook adds the change to what a layer
returns, for the rows of the batch that asked for it. So one pass serves rows with different adapters, and
rows without one get what the model itself says, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from modelwright.base.errors import UserError, did_you_mean
from modelwright.model.quantized import Int4Linear, Int8Linear
from modelwright.model.transformer import Transformer

Adaptable = nn.Linear | Int8Linear | Int4Linear


@dataclass(frozen=True, slots=True)
class LowRank:
    """The change of one layer."""

    a: Tensor
    """(r, in)."""
    b: Tensor
    """(out, r)."""
    scale: float
    """alpha / r, or alpha / sqrt(r) where ranks are stabilised (rsLoRA, arXiv 2312.03732)."""

    def to(self, device: torch.device, dtype: torch.dtype) -> LowRank:
        """The same elsewhere."""
        return LowRank(self.a.to(device, dtype), self.b.to(device, dtype), self.scale)

    def __call__(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out): what is added."""
        return (x @ self.a.T) @ self.b.T * self.scale


@dataclass(frozen=True, slots=True)
class Adapter:
    """A change of a model, by the dotted names of its layers ("model.layers.0.self_attn.q_proj")."""

    layers: Mapping[str, LowRank]


def adaptable_layers(model: Transformer) -> dict[str, Adaptable]:
    """The layers that an adapter may change: linear ones inside the blocks, but no experts."""
    inside = model.model.layers.named_modules()
    return {f"model.layers.{name}": layer for name, layer in inside if isinstance(layer, Adaptable)}


class AdapterSet:
    """The adapters that a model answers with. For one thread: `rows` is a state of the set."""

    def __init__(self, model: Transformer) -> None:
        self._model = model
        self._adapters: dict[str, Adapter] = {}
        self._hooks: dict[str, RemovableHandle] = {}
        self._rows: dict[str, Tensor] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(self._adapters)

    def __getitem__(self, name: str) -> Adapter:
        """In the format of products, on the model's device."""
        return self._adapters[name]

    def check(self, name: str) -> None:
        """Refuse a name that is not there."""
        if name not in self._adapters:
            known = ", ".join(self._adapters) or "none"
            raise UserError(f"there is no adapter '{name}'. Loaded: {known}.{did_you_mean(name, self.names)}")

    def add(self, name: str, adapter: Adapter) -> None:
        """From now on rows can ask for `name`; an adapter that does not fit the model is refused."""
        if name in self._adapters:
            raise UserError(f"an adapter '{name}' is loaded already: remove it first, or choose another name")
        layers = adaptable_layers(self._model)
        _check_fit(name, adapter, layers)
        device, dtype = self._model.head.device, self._model.compute_dtype
        self._adapters[name] = Adapter({layer: c.to(device, dtype) for layer, c in adapter.layers.items()})
        for layer in adapter.layers.keys() - self._hooks.keys():
            self._hooks[layer] = layers[layer].register_forward_hook(self._hook(layer))

    def remove(self, name: str) -> None:
        """Forget an adapter; layers that no other changes are left alone again."""
        self.check(name)
        gone = self._adapters.pop(name)
        needed = {layer for adapter in self._adapters.values() for layer in adapter.layers}
        for layer in gone.layers.keys() - needed:
            self._hooks.pop(layer).remove()

    @contextmanager
    def rows(self, names: Sequence[str | None]) -> Iterator[None]:
        """In passes inside, row i of the batch answers with adapter names[i]; None is the model itself."""
        for name in set(names) - {None}:
            self.check(str(name))
        places: dict[str, list[int]] = {}
        for row, name in enumerate(names):
            if name is not None:
                places.setdefault(name, []).append(row)
        device = self._model.head.device
        self._rows = {name: torch.tensor(rows, device=device) for name, rows in places.items()}
        try:
            yield
        finally:
            self._rows = {}

    def _hook(self, layer: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        """What adds to a layer's output (B, ..., out) the changes that rows of its input asked for."""

        def changed(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            for name, rows in self._rows.items():
                if change := self._adapters[name].layers.get(layer):
                    output = output.index_add(0, rows, change(inputs[0][rows]))
            return output

        return changed


def _check_fit(name: str, adapter: Adapter, layers: Mapping[str, Adaptable]) -> None:
    if unknown := sorted(adapter.layers.keys() - layers.keys()):
        raise UserError(
            f"adapter '{name}' changes {unknown[0]} ({len(unknown)} such layers), which this model lacks or"
            " which cannot be changed. Linear layers of attention and of dense feed-forward networks can; the"
            " embedding, the head, routers and experts cannot. Is it an adapter of another model?"
        )
    for layer, change in adapter.layers.items():
        linear = layers[layer]
        expected = (change.a.shape[0], linear.in_features), (linear.out_features, change.a.shape[0])
        if (found := (tuple(change.a.shape), tuple(change.b.shape))) != expected:
            raise UserError(
                f"adapter '{name}': A and B of {layer} are {found[0]} and {found[1]}, the model needs"
                f" {expected[0]} and {expected[1]}: it is an adapter of another model"
            )
