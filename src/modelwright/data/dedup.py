"""Exact duplicates: the same text twice teaches nothing twice, and leaks into validation."""

from __future__ import annotations

from collections.abc import Iterator

from modelwright.base.schema import Document, Reason
from modelwright.base.seams import Drop


class ExactDuplicates:
    """A Step that keeps the first document of each text. Memory: about 100 bytes a document."""

    def __init__(self) -> None:
        self._first: dict[bytes, int] = {}
        self._numbers: dict[str, int] = {}
        self._sources: list[str] = []

    def __call__(self, documents: Iterator[Document], drop: Drop) -> Iterator[Document]:
        """Documents out are distinct; the reason for a dropped one names the one it repeats."""
        for document in documents:
            text_hash = bytes.fromhex(document.id)
            first = self._first.get(text_hash)
            if first is None:
                self._first[text_hash] = self._number_of(document.source)
                yield document
            else:
                source = self._sources[first]
                drop(document, Reason("exact duplicate", document.id, f"first seen in {source}"))

    def _number_of(self, source: str) -> int:
        number = self._numbers.setdefault(source, len(self._sources))
        if number == len(self._sources):
            self._sources.append(source)
        return number
