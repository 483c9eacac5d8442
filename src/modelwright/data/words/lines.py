"""Documents from which a filter took lines."""

from __future__ import annotations

from collections.abc import Mapping

from modelwright.base.schema import Document
from modelwright.data.rewrite import rewritten

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
    return rewritten(document, text, {REMOVED: counts} if counts else None)
