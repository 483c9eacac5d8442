"""What is to be forgotten, told by the names that `data.forget` lists: sources, and documents by id.

A document has several ids in its life, since an id follows the text: that of the whole it was cut from, those
from before filters masked it or cut parts out of it (`data.rewrite`), and its own. Any of them names it.
"""

from __future__ import annotations

from collections.abc import Iterable

from modelwright.base.schema import Document, Reason
from modelwright.data.rewrite import former_ids

ID_LETTERS = 32
"""Of an id that reasons give at least: as many as are compared for duplicates."""
REPEATING = ("exact duplicate", "near duplicate")
"""Rules whose value is the id of an earlier document, or its first letters."""


class Forgotten:
    """The names, asked document by document."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)
        self._beginnings = frozenset(name[:ID_LETTERS] for name in self._names)

    def name_of(self, document: Document) -> str | None:
        """The name on the list that means this document, or None."""
        if not self._names:
            return None
        meta = document.meta
        known = (document.source, document.id, meta.get("whole"), *former_ids(meta))
        return next((str(name) for name in known if name in self._names), None)

    def hides(self, document: Document, reason: Reason) -> bool:
        """Whether nothing of the text may be kept: it is forgotten itself, or repeats what is."""
        return self.name_of(document) is not None or self.is_original(earlier_of(reason))

    def is_original(self, identity: str | None) -> bool:
        """Whether an id, or its first letters, is that of a forgotten document."""
        return identity is not None and identity[:ID_LETTERS] in self._beginnings


def earlier_of(reason: Reason) -> str | None:
    """The id, or its first letters, of the document that the dropped one repeats, or None."""
    return str(reason.value) if reason.rule in REPEATING else None
