"""Tensors saved in pieces: one safetensors file per process, and an index that says where each piece lies.

The index names for every tensor its whole shape and its pieces: file, offset, shape. Whoever loads takes
from each piece the part that overlaps what it needs, so that a checkpoint fits any number of processes, also
one. A plain file of whole tensors is the case of one piece. (torch's DCP does the same and keeps its index as
a pickle, which may run any code when it is read.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from modelwright.base.errors import DamagedFile
from modelwright.base.files import read_json, sync
from modelwright.training.layout import Layout, Piece, Shape, ShardedLayout, whole_piece

INDEX = "index.json"


@dataclass(frozen=True, slots=True)
class Stored:
    """A piece on disk."""

    file: str
    shape: Shape
    """Of the whole tensor."""
    piece: Piece


def parameter_of(key: str) -> str:
    """Of which parameter a tensor tells: "exp_avg/model.norm.weight" -> "model.norm.weight"."""
    return key.rpartition("/")[2]


def boxed(layout: Layout, key: str, shape: Shape) -> tuple[Shape, Piece] | None:
    """(shape of the whole, piece) of a tensor that is cut as its parameter is; None where it is the same on
    every process, as a count of steps is."""
    if isinstance(layout, ShardedLayout) and (name := parameter_of(key)) in layout.shapes:
        piece = layout.pieces[layout.rank][name]
        if piece.shape == shape:
            return layout.shapes[name], piece
    return None


def save_pieces(
    folder: Path, part: str, rank: int, tensors: Mapping[str, Tensor], layout: ShardedLayout
) -> dict[str, Any]:
    """Write the pieces that this process keeps to a file of its own; its entries for the index, by name."""
    file = f"{part}-{rank:05d}.safetensors"
    kept: dict[str, Tensor] = {}
    entries: dict[str, Any] = {}
    for key, tensor in tensors.items():
        shape = tuple(tensor.shape)
        box = boxed(layout, key, shape)
        if layout.is_keeper(parameter_of(key)) if box else rank == 0:
            kept[key] = tensor.contiguous()
            whole, piece = box or (shape, whole_piece(shape))
            entries[key] = asdict(Stored(file, whole, piece))
    if kept:
        save_file(kept, folder / file)
        sync(folder / file)  # each machine its own: in a shared file system nobody can do it for another
    return entries


def load_pieces(folder: Path, part: str, layout: Layout) -> dict[str, Tensor]:
    """What this process holds of the tensors of a part; on one process, the wholes."""
    found: dict[str, Tensor] = {}
    for key, stored in _stored(folder, part).items():
        shape = stored[0].shape
        name = parameter_of(key)
        wanted = whole_piece(shape)
        if isinstance(layout, ShardedLayout) and layout.shapes.get(name) == shape:
            wanted = layout.pieces[layout.rank][name]
        found[key] = _read(folder, key, stored, wanted)
    return found


def _stored(folder: Path, part: str) -> dict[str, list[Stored]]:
    """Tensor -> its pieces on disk."""
    plain = folder / f"{part}.safetensors"
    if plain.exists():
        with safe_open(plain, framework="pt") as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        return {key: [Stored(plain.name, shape, whole_piece(shape))] for key, shape in shapes.items()}
    found: dict[str, list[Stored]] = {}
    for key, entries in read_json(folder / INDEX)[part].items():
        for entry in entries:
            piece = Piece(tuple(entry["piece"]["offset"]), tuple(entry["piece"]["shape"]))
            found.setdefault(key, []).append(Stored(entry["file"], tuple(entry["shape"]), piece))
    return found


def _read(folder: Path, key: str, stored: list[Stored], wanted: Piece) -> Tensor:
    """The wanted box of a tensor, put together from the pieces that overlap it."""
    result: Tensor | None = None
    covered = 0
    for each in stored:
        overlap = _overlap(each.piece, wanted)
        if overlap is None and result is not None:
            continue
        with _opened(folder / each.file) as file:
            view = file.get_slice(key)
            if result is None:
                result = torch.empty(wanted.shape, dtype=_dtype(file, key))
            if overlap is None:
                continue
            part = view[_within(overlap, each.piece)] if each.piece.shape else file.get_tensor(key)
        result[_within(overlap, wanted)] = part
        covered += overlap.numel
    if result is None or covered != wanted.numel:
        raise DamagedFile(
            f"{folder}: the pieces of {key} do not cover it: {covered} of {wanted.numel} numbers"
        )
    return result


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise DamagedFile(f"{path} is no whole safetensors file: {error}") from error


def _dtype(file: Any, key: str) -> torch.dtype:
    """Read from an empty slice, which costs no reading of the tensor."""
    view = file.get_slice(key)
    return (view[:0] if view.get_shape() else file.get_tensor(key)).dtype


def _overlap(a: Piece, b: Piece) -> Piece | None:
    """What two boxes share; None where that is nothing."""
    first = tuple(max(x, y) for x, y in zip(a.offset, b.offset, strict=True))
    ends = ((x.stop, y.stop) for x, y in zip(a.slices, b.slices, strict=True))
    shape = tuple(min(end) - start for end, start in zip(ends, first, strict=True))
    return Piece(first, shape) if all(size > 0 for size in shape) else None


def _within(inner: Piece, outer: Piece) -> tuple[slice, ...]:
    """A box as an index into a box that holds it."""
    offset = tuple(x - y for x, y in zip(inner.offset, outer.offset, strict=True))
    return Piece(offset, inner.shape).slices
