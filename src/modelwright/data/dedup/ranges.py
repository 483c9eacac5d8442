"""What is to be cut from the texts of a unit, in bytes, and the cutting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelwright.base.schema import Document, Reason
from modelwright.data.dedup.hashing import Integers
from modelwright.data.dedup.settings import Removal
from modelwright.data.rewrite import rewritten

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Texts:
    """The texts of a unit in UTF-8, one after the other, in memory or memory mapped."""

    content: Bytes
    offsets: Integers
    """(documents + 1,) where each begins, and the end."""

    @staticmethod
    def of(texts: Sequence[str]) -> Texts:
        """Texts in memory."""
        encoded = [text.encode() for text in texts]
        offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        return Texts(np.frombuffer(b"".join(encoded), np.uint8), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1


@dataclass(frozen=True, slots=True)
class Ranges:
    """Stretches of the texts of a unit, in order, apart from each other."""

    document: Integers
    """(ranges,) row in the unit."""
    start: Integers
    """(ranges,) first byte of the document's UTF-8."""
    end: Integers
    """(ranges,) the byte after the last."""

    def of(self, document: int) -> list[tuple[int, int]]:
        """The [start, end) of one document."""
        low, high = np.searchsorted(self.document, [document, document + 1])
        return list(zip(self.start[low:high].tolist(), self.end[low:high].tolist(), strict=True))


def merged(document: Integers, start: Integers, end: Integers) -> Ranges:
    """Ranges sorted by (document, start), those that touch or overlap made one."""
    if not len(document):
        return Ranges(document, start, end)
    order = np.lexsort((start, document))
    document, start, end = document[order], start[order], end[order]
    # The furthest end so far in the document: documents are told apart by an offset above all ends.
    far = np.int64(int(end.max()) + 1)
    reach = np.maximum.accumulate(end + document * far)
    begins = np.concatenate([[True], start[1:] + document[1:] * far > reach[:-1]])
    heads = np.flatnonzero(begins)
    tails = np.append(heads[1:], len(document)) - 1
    return Ranges(document[heads], start[heads], reach[tails] - document[heads] * far)


def snapped(ranges: Ranges, texts: Texts) -> Ranges:
    """The same ranges without the letters that they hold in part: what is cut is repeated, and what is left
    is UTF-8. Ranges that hold no whole letter go."""
    base = texts.offsets[ranges.document]
    limit = texts.offsets[ranges.document + 1]
    start, end = base + ranges.start, base + ranges.end
    for _ in range(3):  # a letter has at most three bytes that continue it
        start = start + (_continues(texts.content, start) & (start < end))
        end = end - ((end < limit) & _continues(texts.content, end) & (end > start))
    left = start < end
    return Ranges(ranges.document[left], (start - base)[left], (end - base)[left])


def _continues(content: Bytes, places: Integers) -> NDArray[np.bool_]:
    if not len(content):
        return np.zeros(len(places), bool)
    return (content[np.minimum(places, len(content) - 1)] & 0xC0) == 0x80


def remove(document: Document, ranges: Sequence[tuple[int, int]], removal: Removal) -> Document | Reason:
    """The document without its ranges (its id follows its text), or why it goes."""
    if not ranges:
        return document
    content = document.text.encode()
    share = sum(end - start for start, end in ranges) / len(content)
    if removal.drop_above is not None and share > removal.drop_above:
        return Reason("repeated text", share, f"at most {removal.drop_above:.2g} of it may stand elsewhere")
    if not removal.cut:
        return document
    kept: list[Any] = []
    done = 0
    for start, end in ranges:
        kept.append(content[done:start])
        done = end
    text = b"".join([*kept, content[done:]]).decode()
    return rewritten(document, text) if text else Reason("repeated text", share)
