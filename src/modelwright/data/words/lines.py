"""Documents from which a filter took lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from modelwright.base.files import sha256_text
from modelwright.base.schema import Document

REMOVED = "removed_lines"
"""The key in a document's `meta`: rule -> how many lines it took."""


def with_lines(document: Document, text: str, removed: Mapping[str, int]) -> Document:
    """The document with the text that was left. Its id follows the text; `meta["removed_lines"]` counts what
    was removed by rule, over all filters that the document has passed."""
    if text == document.text and not removed:
        return document
    counts = dict(document.meta.get(REMOVED, {}))
    for rule, count in removed.items():
        counts[rule] = counts.get(rule, 0) + count
    meta = {**document.meta, REMOVED: counts} if counts else document.meta
    return replace(document, text=text, id=sha256_text(text), meta=meta)
