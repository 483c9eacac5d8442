"""LoRA (arXiv 2106.09685): a small change of a model, y += scale x B (A x) in some of its linear layers, and
many such changes of one model side by side. Such a change is trained in `low_rank.py`.

The model's own layers stay what they are, quantized or not: a forward hook adds the change to what a layer
returns, for the rows of the batch that asked for it. So one pass serves rows with different adapters, and
rows without one get what the model itself says, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from modelwright.base.errors import UserError, did_you_mean
from modelwright.model.low_rank import Adaptable
from modelwright.model.moe import StackedLinear
from modelwright.model.rows import Rows
from modelwright.model.stacks import QuantizedStack, shape_of
from modelwright.model.transformer import Transformer


@dataclass(frozen=True, slots=True)
class LowRank:
    """The change of one layer."""

    a: Tensor
    """(r, in); of a stack of experts (E, r, in)."""
    b: Tensor
    """(out, r); of a stack (E, out, r)."""
    scale: float
    """alpha / r, or alpha / sqrt(r) where ranks are stabilised (rsLoRA, arXiv 2312.03732)."""
    magnitude: Tensor | None = None
    """(out,) lengths of the rows of the changed weight, where they are set (DoRA, arXiv 2402.09353)."""

    def to(self, device: torch.device, dtype: torch.dtype) -> LowRank:
        """The same elsewhere; lengths in fp32, since what they are divided by is too."""
        magnitude = None if self.magnitude is None else self.magnitude.to(device, torch.float32)
        return LowRank(self.a.to(device, dtype), self.b.to(device, dtype), self.scale, magnitude)

    def __call__(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out): what is added, before rows get their lengths."""
        return (x @ self.a.T) @ self.b.T * self.scale

    def gain(self, weight: Tensor) -> Tensor | None:
        """(out,) fp32: what DoRA multiplies the rows of the changed weight by; `weight` is the layer's."""
        if self.magnitude is None:
            return None
        lengths = torch.linalg.vector_norm(weight.float() + self._product(), dim=1)
        return self.magnitude / lengths.clamp_min(torch.finfo(torch.float32).tiny)

    def merged(self, weight: Tensor) -> Tensor:
        """The layer's weight (out, in), or (E, out, in), with the change in it, in fp32."""
        gain, changed = self.gain(weight), weight.float() + self._product()
        return changed if gain is None else changed * gain[:, None]

    def unmerged(self, weight: Tensor) -> Tensor:
        """The other way, to within rounding."""
        if self.magnitude is not None:
            raise UserError(
                "a DoRA adapter cannot be taken out of a weight again: it has set the lengths of the rows,"
                " and those that there were are lost. Take the model that it was merged into"
            )
        return weight.float() - self._product()

    def _product(self) -> Tensor:
        return (self.b.float() @ self.a.float()) * self.scale


@dataclass(frozen=True, slots=True)
class Adapter:
    """A change of a model, by the dotted names of its layers ("model.layers.0.self_attn.q_proj")."""

    layers: Mapping[str, LowRank]
    rows: Mapping[str, Rows] = field(default_factory=dict[str, Rows])
    """Of the embedding and the head, which are set, by the names of `model.rows`."""
    unties: bool = False
    """Whether a head that was the embedding does not follow it any more."""


def adaptable_layers(model: Transformer) -> dict[str, Adaptable]:
    """The single layers that an adapter may change: linear ones inside the blocks. Experts are in stacks."""
    inside = model.model.layers.named_modules()
    single = ((name, layer) for name, layer in inside if ".experts." not in name)
    return {f"model.layers.{name}": layer for name, layer in single if isinstance(layer, Adaptable)}


def expert_stacks(model: Transformer) -> dict[str, StackedLinear | QuantizedStack]:
    """The stacks of experts that an adapter may change."""
    inside = model.model.layers.named_modules()
    kinds = (StackedLinear, QuantizedStack)
    return {f"model.layers.{name}": layer for name, layer in inside if isinstance(layer, kinds)}


def changeable(model: Transformer) -> dict[str, tuple[int, ...]]:
    """All that a change can be merged into or trained beside, and the shape of its weight."""
    linear = {n: (each.out_features, each.in_features) for n, each in adaptable_layers(model).items()}
    return {**linear, **{name: shape_of(stack) for name, stack in expert_stacks(model).items()}}


class AdapterSet:
    """The adapters that a model answers with. For one thread: `rows` is a state of the set."""

    def __init__(self, model: Transformer) -> None:
        self._model, self._device = model, model.head.device
        self._adapters: dict[str, Adapter] = {}
        self._gains: dict[tuple[str, str], Tensor] = {}
        self._hooks: dict[str, RemovableHandle] = {}
        self._rows: dict[str, Tensor] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(self._adapters)

    def __getitem__(self, name: str) -> Adapter:
        """In the format of products, on the model's device."""
        return self._adapters[name]

    def gain(self, name: str, layer: str) -> Tensor | None:
        """(out,) fp32: what a layer's changed output is multiplied by, where the adapter is one of DoRA."""
        return self._gains.get((name, layer))

    def check(self, name: str) -> None:
        """Refuse a name that is not there."""
        if name not in self._adapters:
            known = ", ".join(self._adapters) or "none"
            raise UserError(f"there is no adapter '{name}'. Loaded: {known}.{did_you_mean(name, self.names)}")

    def add(self, name: str, adapter: Adapter) -> None:
        """From now on rows can ask for `name`; an adapter that does not fit the model is refused."""
        if name in self._adapters:
            raise UserError(f"an adapter '{name}' is loaded already: remove it first, or choose another name")
        if adapter.rows:
            raise UserError(
                f"adapter '{name}' sets rows of {' and '.join(adapter.rows)}, which is one for all requests:"
                " merge it into a model of its own (modelwright merge MODEL ADAPTER --out FOLDER), and serve"
                " that beside this one"
            )
        if changed := sorted(adapter.layers.keys() & expert_stacks(self._model).keys()):
            raise UserError(
                f"adapter '{name}' changes experts ({changed[0]}), which rows of several requests go through"
                " together: merge it into a model of its own (modelwright merge MODEL ADAPTER --out FOLDER)"
            )
        layers = adaptable_layers(self._model)
        check_fit(name, adapter, changeable(self._model))
        device, dtype = self._device, self._model.compute_dtype
        for layer, change in adapter.layers.items():
            if (gain := _gain_of(name, layers[layer], change.to(device, torch.float32))) is not None:
                self._gains[name, layer] = gain
        self._adapters[name] = Adapter({layer: c.to(device, dtype) for layer, c in adapter.layers.items()})
        for layer in adapter.layers.keys() - self._hooks.keys():
            hooked = self._model.get_submodule(layer)
            self._hooks[layer] = hooked.register_forward_hook(self._hook(layer))

    def remove(self, name: str) -> None:
        """Forget an adapter; layers that no other changes are left alone again."""
        self.check(name)
        gone = self._adapters.pop(name)
        self._gains = {key: gain for key, gain in self._gains.items() if key[0] != name}
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
        device = self._device
        self._rows = {name: torch.tensor(rows, device=device) for name, rows in places.items()}
        try:
            yield
        finally:
            self._rows = {}

    def _hook(self, layer: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        """What adds to a layer's output (B, ..., out) the changes that rows of its input asked for."""

        def changed(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            for name, rows in self._rows.items():
                if change := self._adapters[name].layers.get(layer):
                    added = change(inputs[0][rows])
                    if (gain := self._gains.get((name, layer))) is not None:
                        added = _lengthened(module, gain.to(added.dtype), output[rows], added)
                    output = output.index_add(0, rows, added)
            return output

        return changed


def _lengthened(layer: nn.Module, gain: Tensor, output: Tensor, added: Tensor) -> Tensor:
    """What DoRA adds to a layer's output: its rows and their change times the gain, less what was there; a
    bias is not multiplied."""
    bias = layer.bias
    unbiased = output if bias is None else output - bias.to(output.dtype)  # type: ignore[operator]
    return (gain - 1) * unbiased + gain * added


def _gain_of(name: str, layer: Adaptable, change: LowRank) -> Tensor | None:
    if change.magnitude is None:
        return None
    weight = layer.weight_in(torch.float32)
    if weight.is_meta:
        raise UserError(
            f"adapter '{name}' sets lengths of rows (DoRA), which takes the model's weights; the engine has"
            " let go of them: name the adapter when serving starts (--adapter), or merge it into the model"
        )
    return change.gain(weight)


def check_fit(name: str, adapter: Adapter, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse an adapter of another model; `shapes` are those of `changeable`."""
    if unknown := sorted(adapter.layers.keys() - shapes.keys()):
        raise UserError(
            f"adapter '{name}' changes {unknown[0]} ({len(unknown)} such layers), which this model lacks or"
            " which cannot be changed. Linear layers of attention and of feed-forward networks can, experts"
            " among them; routers cannot. Is it an adapter of another model?"
        )
    for layer, change in adapter.layers.items():
        (*stack, outs, ins), rank = shapes[layer], change.a.shape[-2]
        expected = (*stack, rank, ins), (*stack, outs, rank)
        if (found := (tuple(change.a.shape), tuple(change.b.shape))) != expected:
            raise UserError(
                f"adapter '{name}': A and B of {layer} are {found[0]} and {found[1]}, the model needs"
                f" {expected[0]} and {expected[1]}: it is an adapter of another model"
            )
