"""Rows of the embedding and the head in PEFT's folders, where they come in three ways.

    trainable_token_indices    ...model.embed_tokens.token_adapter.trainable_tokens_delta    (n, D)
    modules_to_save            ...model.embed_tokens.weight                                  (V, D)
    a resized vocabulary       ...model.embed_tokens.weight, or ...base_layer.weight         (V, D)

What is called a delta holds the rows themselves. A head that is the embedding follows it, but for modules to
save without ensure_weight_tying, and tokens of its own: there PEFT takes the two apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from modelwright.base.errors import DamagedFile, UserError
from modelwright.model.rows import EMBEDDING, HEAD, Rows

_INDICES, _SAVED, _TYING = "trainable_token_indices", "modules_to_save", "ensure_weight_tying"
_DELTA = ".token_adapter.trainable_tokens_delta"
_MOST_IDS = 2**31
"""Far above every vocabulary: an id that is not below is damage."""
_WHOLE = (".weight", ".base_layer.weight", ".token_adapter.base_layer.weight")


def take(
    tensors: dict[str, Tensor], config: Mapping[str, Any], prefix: str, path: Path
) -> tuple[dict[str, Rows], bool]:
    """(rows by matrix, whether a tied head is taken apart from the embedding) out of a file's tensors, which
    lose them; `path` is that of the configuration."""
    indices, saved = _indices(config, path), _saved(config, path)
    found: dict[str, Rows] = {}
    for name in (EMBEDDING, HEAD):
        names = [f"{prefix}{name}{end}" for end in _WHOLE if f"{prefix}{name}{end}" in tensors]
        whole = [tensors.pop(each) for each in names]
        delta = tensors.pop(f"{prefix}{name}{_DELTA}", None)
        if any(each.dim() != 2 for each in (*whole, *([] if delta is None else [delta]))):
            raise DamagedFile(f"{path.parent}: the rows of {name} are no matrix")
        if delta is not None:
            ids = indices.get(name, indices.get(EMBEDDING))  # a head that is the embedding is named once
            if ids is None or len(ids) != len(delta):
                raise DamagedFile(
                    f"{path}: {_INDICES} names {len(ids or ())} tokens of {name}, and there are rows for"
                    f" {len(delta)}"
                )
            rows = Rows(delta, torch.tensor(ids))
            found[name] = Rows(rows.into(whole[0])) if whole else rows
        elif whole:
            found[name] = Rows(whole[0])
    tying = bool(config.get(_TYING))
    for name in saved | indices.keys():
        follows = name == HEAD and EMBEDDING in found and (tying or name not in saved)
        if name not in found and not follows:
            raise DamagedFile(f"{path} says that {name} was trained, and its rows are missing")
    return found, _unties(found, saved, tying)


def _unties(found: Mapping[str, Rows], saved: set[str], ensured: bool) -> bool:
    if HEAD in found:
        return not (EMBEDDING in found and _equal(found[EMBEDDING], found[HEAD]))
    return EMBEDDING in saved and not ensured


def _equal(one: Rows, other: Rows) -> bool:
    ids = [list(range(len(each.values))) if each.ids is None else each.ids.tolist() for each in (one, other)]
    return ids[0] == ids[1] and torch.equal(one.values, other.values)


def _indices(config: Mapping[str, Any], path: Path) -> dict[str, list[int]]:
    """Ids by matrix. A list means the embedding."""
    stated = config.get(_INDICES) or {}
    stated = {"embed_tokens": stated} if isinstance(stated, list) else stated
    found: dict[str, list[int]] = {}
    for name, ids in cast(dict[str, Any], stated).items() if isinstance(stated, dict) else ():
        whole = isinstance(ids, list) and all(
            type(each) is int and 0 <= each < _MOST_IDS for each in cast(list[Any], ids)
        )
        if not whole or len(set(ids)) != len(ids):
            raise DamagedFile(f"{path}: {_INDICES} of {name} are no ids that differ: {str(ids)[:60]}")
        found[_matrix(name, path)] = ids
    return found


def _saved(config: Mapping[str, Any], path: Path) -> set[str]:
    stated = config.get(_SAVED) or []
    if not isinstance(stated, list):
        raise DamagedFile(f"{path}: {_SAVED} is {str(stated)[:60]}, expected a list of names")
    return {_matrix(str(name), path) for name in cast(list[Any], stated)}


def _matrix(name: str, path: Path) -> str:
    """Our name of a matrix that PEFT names by the end of its own."""
    for known in (EMBEDDING, HEAD):
        if f".{known}".endswith(f".{name}"):
            return known
    raise UserError(
        f"{path} trains {name} beside its layers, which is not supported: {EMBEDDING} and {HEAD} are. Merge"
        " it into its model with PEFT's merge_and_unload, and load that model"
    )


def tensors(rows: Mapping[str, Rows], *, tied: bool) -> dict[str, Tensor]:
    """Rows under the names that PEFT gives them, without its prefix. A whole matrix that is the head too is
    there twice, since PEFT asks for both."""
    made: dict[str, Tensor] = {}
    for name, each in rows.items():
        whole = each.ids is None
        made[f"{name}.weight" if whole else f"{name}{_DELTA}"] = each.values
        if whole and tied and name == EMBEDDING:
            made[f"{HEAD}.weight"] = each.values.clone()
    return made


def settings(rows: Mapping[str, Rows], *, tied: bool) -> dict[str, Any]:
    """What adapter_config.json says of them."""
    short = {name: name.rpartition(".")[2] for name in rows}
    whole = [short[name] for name, each in rows.items() if each.ids is None]
    ids = {short[name]: each.ids.tolist() for name, each in rows.items() if each.ids is not None}
    return {
        _SAVED: whole or None,
        _INDICES: ids or None,
        _TYING: tied and bool(whole),
    }
