"""A tiny corpus may leave a side of the split without documents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow.parquet as pq

from modelwright.base.files import atomic_path
from modelwright.base.schema import Document
from modelwright.data.corpus import DocumentsFile, read_documents
from modelwright.data.split import position


def fill_the_empty_side(train: Path, validation: Path, validation_fraction: float) -> dict[str, int]:
    """A tiny corpus may leave a side without documents. It then gets the one document nearest to it; an only
    document is for training. The folders hold `data.corpus` shards. The answer is what changes, by the names
    of the metrics."""
    for_training, for_validation = _num_documents(train), _num_documents(validation)
    if for_validation and not for_training:
        return _moved(_move(max(_places(validation)), train), "validation", "train")
    elif for_training > 1 and not for_validation and validation_fraction > 0:
        return _moved(_move(min(_places(train)), validation), "train", "validation")
    return {}


def _moved(size: int, full: str, empty: str) -> dict[str, int]:
    return {
        f"{full}_documents": -1,
        f"{full}_bytes": -size,
        f"{empty}_documents": 1,
        f"{empty}_bytes": size,
    }


def _move(place: tuple[float, str, Path], empty: Path) -> int:
    """Move a document to the other side; its bytes."""
    _, identity, path = place
    documents = list(read_documents(path))
    moving = [document for document in documents if document.id == identity]
    _rewrite(path, [document for document in documents if document.id != identity])
    _rewrite(empty / path.name, moving)
    return sum(len(document.text.encode()) for document in moving)


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
