"""Long documents into pieces, so that one book still gives a validation set and even batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from modelwright.base.files import sha256_text
from modelwright.base.schema import Document
from modelwright.base.seams import Drop

BREAKS = ("\n\n", "\n", ". ", " ")
"""Where to cut, best first: after a paragraph, a line, a sentence, a word."""


class CutLong:
    """A Step that cuts documents of over `max_characters`. The pieces joined are the document."""

    def __init__(self, max_characters: int) -> None:
        assert max_characters > 0
        self.max_characters = max_characters

    def __call__(self, documents: Iterator[Document], drop: Drop) -> Iterator[Document]:
        """Pieces know their whole: `meta` has its id and their number in it, from 1."""
        for document in documents:
            if len(document.text) <= self.max_characters:
                yield document
                continue
            for number, piece in enumerate(cut(document.text, self.max_characters), 1):
                meta = {**document.meta, "whole": document.id, "piece": number}
                yield replace(document, text=piece, id=sha256_text(piece), meta=meta)


def cut(text: str, max_characters: int) -> Iterator[str]:
    """Pieces of at most `max_characters`, cut at the best break in their second half."""
    start = 0
    while len(text) - start > max_characters:
        end = start + max_characters
        for mark in BREAKS:
            found = text.rfind(mark, start + max_characters // 2, end)
            if found >= 0:
                end = found + len(mark)
                break
        yield text[start:end]
        start = end
    yield text[start:]
