"""Train or validation, decided by each document alone.

The side depends on the hash of the text and nothing else: adding, removing or reordering documents
moves no other, and a text that comes back from another source falls on the same side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import pyarrow.parquet as pq

from modelwright.base.files import atomic_path
from modelwright.base.schema import Document
from modelwright.data.corpus import DocumentsFile, read_documents

Side = Literal["train", "validation"]


def position(key: str, salt: str) -> float:
    """A number in [0, 1) that is even over keys and fixed for a key and a salt."""
    digest = hashlib.sha256(f"{salt}\x1f{key}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / (1 << 53)


def side_of(key: str, validation_fraction: float) -> Side:
    """Which side a text with this key (its sha256, or its question) is on."""
    return "validation" if position(key, "split") < validation_fraction else "train"


def fill_the_empty_side(train: Path, validation: Path, validation_fraction: float) -> None:
    """A tiny corpus may leave a side without documents. It then gets the one document nearest to it, if
    there are two documents at all and both sides are wanted. The folders hold `data.corpus` shards."""
    counts = {folder: _num_documents(folder) for folder in (train, validation)}
    if sum(counts.values()) < 2 or min(counts.values()) > 0 or validation_fraction <= 0:
        return
    full, empty = (train, validation) if counts[train] else (validation, train)
    places = ((position(identity, "split"), identity, path) for path, identity in _ids(full))
    nearest = min(places) if full == train else max(places)
    _, identity, path = nearest
    documents = list(read_documents(path))
    _rewrite(path, [document for document in documents if document.id != identity])
    _rewrite(empty / path.name, [document for document in documents if document.id == identity])


def _num_documents(folder: Path) -> int:
    return sum(pq.read_metadata(path).num_rows for path in folder.glob("*.parquet"))


def _ids(folder: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted(folder.glob("*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(columns=["id"]):
            yield from ((path, identity) for identity in batch.column(0).to_pylist())


def _rewrite(path: Path, documents: Iterable[Document]) -> None:
    with atomic_path(path) as temporary, DocumentsFile(temporary) as file:
        for document in documents:
            file.add(document)
