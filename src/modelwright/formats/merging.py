"""An adapter into the weights of its model, or out of them again: for whoever trained it, and for `merge`.

Sums are made in fp32 and rounded once, to the format that the weights are stored in.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from modelwright.formats.stored import stored_dtype
from modelwright.model.adapters import Adapter
from modelwright.model.config import ModelConfig
from modelwright.model.rows import put_rows
from modelwright.model.transformer import Transformer


def _as_stored(_: str) -> None:
    return None


def put_adapter(
    weights: dict[str, Tensor],
    adapter: Adapter,
    config: ModelConfig,
    held: Callable[[str], Tensor | None] = _as_stored,
    *,
    undo: bool = False,
) -> ModelConfig:
    """Change the weights of a model, by their names, in place; returns the configuration that they have then.

    `held`: name of a layer -> the weight, in fp32, that the adapter was trained beside, where that is not the
    stored one; such a weight takes the stored one's place, changed or not. One is asked for at a time. `undo`
    takes out what is in the weights.
    """
    for key in list(weights):
        name, stored = key.removesuffix(".weight"), weights[key]
        change, base = adapter.layers.get(name), held(name)
        if change is None and base is None:
            continue
        made = stored if base is None else base
        if change is not None:
            made = change.unmerged(made) if undo else change.merged(made)
        weights[key] = made.to(stored.dtype)
    return put_rows(weights, adapter.rows, config, unties=adapter.unties)


def without_weights(config: ModelConfig, folder: Path) -> Transformer:
    """The network of a configuration, empty, in the format that a folder's weights are stored in."""
    with torch.device("meta"):
        return Transformer(config).to(stored_dtype(folder))
