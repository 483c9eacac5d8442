"""`match.cpp` called on an index; `searcher` chooses between it and the plain path."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modelwright.base.native import Unavailable, load
from modelwright.data.decontaminate.arrays import Arrays
from modelwright.data.decontaminate.plain import Found, search
from modelwright.data.decontaminate.words import classes, fold

SOURCE = Path(__file__).with_name("match.cpp")
_ROW = len(Found._fields)
_CAPACITY = 64

Searcher = Callable[[str, int, int], list[Found]]
"""(text, floor in percent, least weight) -> rows, whose places are code points of the text."""


@cache
def library() -> ctypes.CDLL | None:
    """The compiled search; None where it cannot be built."""
    try:
        return load(SOURCE, {"search": "ppsiiipi>i"})
    except Unavailable:
        return None


def searcher(arrays: Arrays) -> Searcher:
    """The search of one index: compiled where that can be done, with the same rows."""
    compiled = library()
    if compiled is None:
        return lambda text, floor_percent, least: search(arrays, fold(text), floor_percent, least)
    return _Compiled(arrays, compiled)


class _Compiled:
    def __init__(self, arrays: Arrays, compiled: ctypes.CDLL) -> None:
        self._search = compiled.search
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

    def __call__(self, text: str, floor_percent: int, least: int) -> list[Found]:
        folded = fold(text).encode("utf-8", "surrogatepass")
        capacity = _CAPACITY
        while True:
            rows = np.empty((capacity, _ROW), np.int64)
            count = self._search(
                ctypes.addressof(self._arrays),
                self._sizes.ctypes.data,
                folded,
                len(folded),
                floor_percent,
                least,
                rows.ctypes.data,
                capacity,
            )
            if count <= capacity:
                break
            capacity = count
        found = [Found(*row) for row in rows[:count].tolist()]
        return found if folded.isascii() else [_in_code_points(row, folded) for row in found]


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


def _in_code_points(row: Found, folded: bytes) -> Found:
    places = {name: getattr(row, name) for name in Found._fields if name.endswith(("_start", "_end"))}
    return row._replace(
        **{name: len(folded[:byte].decode("utf-8", "surrogatepass")) for name, byte in places.items()}
    )
