"""A tiny corpus may leave a side of the split without documents.

Pieces of one document are on one side, so that nothing is measured on a book of which the rest was read.
Where that leaves nothing to measure on, as with a corpus of one book, they part after all, and that is said.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow.parquet as pq

from modelwright.base.files import atomic_path
from modelwright.base.schema import Document
from modelwright.data.corpus import DocumentsFile, read_documents
from modelwright.data.split import Side, position, side_of

PARTED = "documents_on_both_sides"
"""Metric: documents of which some pieces are for training and others for validation."""


def fill_the_empty_side(train: Path, validation: Path, validation_fraction: float) -> dict[str, int]:
    """Give a side without documents the pieces whose own hash is of that side, as if each were a document;
    or, where there are none, the one document nearest to it. An only document is for training. The folders
    hold `data.corpus` shards. The answer is what changes, by the names of the metrics."""
    for_training, for_validation = _num_documents(train), _num_documents(validation)
    if for_validation and not for_training:
        return _fill(validation, "validation", train, "train", validation_fraction)
    if for_training > 1 and not for_validation and validation_fraction > 0:
        return _fill(train, "train", validation, "validation", validation_fraction)
    return {}


def finish_filling(train: Path, validation: Path) -> None:
    """After a kill in the middle of filling an empty validation: what is there already leaves training."""
    there = {identity for _, identity, _ in _places(validation)}
    for path in sorted({path for _, identity, path in _places(train) if identity in there}):
        _rewrite(path, (document for document in read_documents(path) if document.id not in there))


def _fill(full: Path, full_side: Side, empty: Path, empty_side: Side, fraction: float) -> dict[str, int]:
    moving = {identity for _, identity, _ in _places(full) if side_of(identity, fraction) == empty_side}
    if not moving or len(moving) == _num_documents(full):
        nearest = max if full_side == "validation" else min
        moving = {nearest(_places(full))[1]}
    count = size = 0
    for path in sorted({path for _, identity, path in _places(full) if identity in moving}):
        moved = [document for document in read_documents(path) if document.id in moving]
        _rewrite(empty / path.name, moved)
        _rewrite(path, (document for document in read_documents(path) if document.id not in moving))
        count, size = count + len(moved), size + sum(len(document.text.encode()) for document in moved)
    return {
        f"{full_side}_documents": -count,
        f"{full_side}_bytes": -size,
        f"{empty_side}_documents": count,
        f"{empty_side}_bytes": size,
        PARTED: len(_wholes(full) & _wholes(empty)),
    }


def _wholes(folder: Path) -> set[str]:
    """Ids of the documents of which the folder has pieces."""
    found: set[str] = set()
    for path in folder.glob("*.parquet"):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=["meta"]):
                metas = (json.loads(meta) for meta in batch.column(0).to_pylist())
                found.update(meta["whole"] for meta in metas if "whole" in meta)
    return found


def _num_documents(folder: Path) -> int:
    return sum(pq.read_metadata(path).num_rows for path in folder.glob("*.parquet"))


def _places(folder: Path) -> Iterator[tuple[float, str, Path]]:
    """(position in the split, id, shard) of every document."""
    for path in sorted(folder.glob("*.parquet")):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=["id"]):
                for identity in batch.column(0).to_pylist():
                    yield position(identity, "split"), identity, path


def _rewrite(path: Path, documents: Iterable[Document]) -> None:
    with atomic_path(path) as temporary, DocumentsFile(temporary) as file:
        for document in documents:
            file.add(document)
