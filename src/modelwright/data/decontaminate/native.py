"""`match.cpp` called on an index; `searcher` chooses between it and the plain path."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modelwright.base.native import find
from modelwright.data.decontaminate.arrays import Arrays
from modelwright.data.decontaminate.plain import Found, search
from modelwright.data.decontaminate.words import classes, fold

SOURCE = Path(__file__).with_name("match.cpp")
_PLACES = [column for column, name in enumerate(Found._fields) if name.endswith(("_start", "_end"))]

Searcher = Callable[[str, int, int, int], list[Found]]
"""(text, floor in percent, least weight, most rows) -> rows, whose places are code points of the text."""


@cache
def library() -> ctypes.CDLL | None:
    """The compiled search; None where it cannot be built."""
    return find(SOURCE, {"search": "ppsiiii>i", "fetch": "p"})


def searcher(arrays: Arrays) -> Searcher:
    """The search of one index: compiled where that can be done, with the same rows."""
    compiled = library()
    if compiled is None:
        return lambda text, *rule: search(arrays, fold(text), *rule)
    return _Compiled(arrays, compiled)


class _Compiled:
    def __init__(self, arrays: Arrays, compiled: ctypes.CDLL) -> None:
        self._compiled = compiled
        self._kept = [
            *(classes(), arrays.word_keys, arrays.word_buckets, arrays.word_weights, arrays.letters_first),
            *(arrays.letters, arrays.roles, arrays.pair_filter, arrays.gram_keys, arrays.gram_buckets),
            *(arrays.gram_first, arrays.posting_item, arrays.posting_at),
            *(arrays.part_first, arrays.part_words, _starts(arrays)),
        ]
        assert all(array.flags.c_contiguous for array in self._kept)
        self._arrays = (ctypes.c_void_p * len(self._kept))(*(array.ctypes.data for array in self._kept))
        self._sizes = np.array(
            [
                (len(arrays.word_buckets) - 1).bit_length() - 1,
                (len(arrays.gram_buckets) - 1).bit_length() - 1,
                (len(arrays.pair_filter) * 8).bit_length() - 1,
                int(arrays.lengths.max(initial=0)),
                len(arrays.word_keys),
                arrays.num_items,
            ],
            np.int64,
        )

    def __call__(self, text: str, floor_percent: int, least: int, limit: int) -> list[Found]:
        folded = fold(text).encode("utf-8", "surrogatepass")
        count = self._compiled.search(
            ctypes.addressof(self._arrays),
            self._sizes.ctypes.data,
            folded,
            len(folded),
            floor_percent,
            least,
            limit,
        )
        if count < 0:
            raise MemoryError(f"a text of {len(folded):,} bytes could not be searched for evaluation items")
        if not count:
            return []
        rows = np.empty((count, len(Found._fields)), np.int64)
        self._compiled.fetch(rows.ctypes.data)
        if not folded.isascii():
            rows[:, _PLACES] = _code_points_before(folded)[rows[:, _PLACES]]
        return [Found(*row) for row in rows.tolist()]


def _starts(arrays: Arrays) -> NDArray[np.uint32]:
    """(W,) bit k is set for a word with which an n-gram of k words starts: most look-ups need not be made."""
    first, words = arrays.part_first[::3], arrays.part_words
    sizes = arrays.part_first[1::3] - first[:-1]
    bits = np.zeros(len(arrays.word_keys), np.uint32)
    longest = int(arrays.lengths.max(initial=0))
    for length in arrays.lengths.tolist():
        whole = sizes == length if length < longest else sizes >= length
        for at in range(int(sizes[whole].max(initial=0)) - length + 1):
            bits[words[first[:-1][whole & (sizes >= at + length)] + at]] |= np.uint32(1 << length)
    return bits


def _code_points_before(text: bytes) -> NDArray[np.int64]:
    """(bytes + 1,) how many code points begin before each byte, and in all."""
    begins = (np.frombuffer(text, np.uint8) & 0xC0) != 0x80
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(begins, dtype=np.int64)])
