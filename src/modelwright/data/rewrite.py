"""A document with another text: its id follows the text, and the ids that it had before stay known.

Every step that changes a text does it here. What is named by an earlier id (a document that somebody asked to
forget, the original of a duplicate) is found again, whatever steps a later recipe has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from modelwright.base.files import sha256_text
from modelwright.base.schema import Document, Json

FORMER = "former_ids"
"""In `meta`: the ids of the texts that the document had before steps changed it, oldest first."""


def rewritten(document: Document, text: str, meta: Mapping[str, Json] | None = None) -> Document:
    """The document with this text, and with these entries besides in its `meta`."""
    known = {**document.meta, **(meta or {})}
    identity = sha256_text(text)
    if identity != document.id:
        known[FORMER] = [*former_ids(document.meta), document.id]
    return replace(document, text=text, id=identity, meta=known)


def former_ids(meta: Mapping[str, Json]) -> list[str]:
    """Ids from before, oldest first."""
    return list(meta.get(FORMER, ()))
