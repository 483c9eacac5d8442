"""Train or validation, decided by each document alone.

The side depends on the hash of the text and nothing else: adding, removing or reordering documents
moves no other, and a text that comes back from another source falls on the same side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Literal

from modelwright.base.schema import Document

Side = Literal["train", "validation"]


def position(key: str, salt: str) -> float:
    """A number in [0, 1) that is even over keys and fixed for a key and a salt."""
    digest = hashlib.sha256(f"{salt}\x1f{key}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / (1 << 53)


def side_of(key: str, validation_fraction: float) -> Side:
    """Which side a text with this key (its sha256, or its question) is on."""
    return "validation" if position(key, "split") < validation_fraction else "train"


def split(documents: Iterable[Document], validation_fraction: float) -> Iterator[tuple[Side, Document]]:
    """Each document with its side.

    One exception serves tiny corpora: a side that would stay empty gets the one document nearest to
    it, if there are two documents at all. So the nearest on each side is held back until the end.
    """
    held: dict[Side, Document] = {}
    filled: set[Side] = set()
    for document in documents:
        side = side_of(document.id, validation_fraction)
        nearer = held.get(side)
        if nearer is None:
            held[side] = document
            continue
        if (_place(document) < _place(nearer)) == (side == "train"):
            held[side], document = document, nearer
        filled.add(side)
        yield side, document
    yield from _last(held, filled, validation_fraction)


def _last(held: dict[Side, Document], filled: set[Side], fraction: float) -> Iterator[tuple[Side, Document]]:
    for side, document in held.items():
        other: Side = "validation" if side == "train" else "train"
        lonely = other not in held and side in filled and 0 < fraction < 1
        only_document = side == "validation" and other not in held and side not in filled
        yield (other if lonely or only_document else side), document


def _place(document: Document) -> float:
    return position(document.id, "split")
