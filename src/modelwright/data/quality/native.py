"""`features.cpp`, called on Python's strings.

Where there is no compiler `library` is None, and `features` takes its plain path, with the same result.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modelwright.base.native import find

_SPACE, _WORD, _MARK = 0, 1, 2
_ASSIGNED = 0x32400
"""Behind it there is neither word nor white space."""


@cache
def library() -> ctypes.CDLL | None:
    """The compiled function; None where it cannot be built."""
    return find(Path(__file__).with_name("features.cpp"), {"count_ngrams": "sipiipi>i"})


@cache
def classes() -> NDArray[np.uint8]:
    """Shape (0x32400,): what each code point is to `\\\\w`, `\\\\s` and the rest."""
    characters = map(chr, range(_ASSIGNED))
    return np.array(
        [_WORD if c.isalnum() or c == "_" else _SPACE if c.isspace() else _MARK for c in characters], np.uint8
    )


@cache
def _table() -> tuple[int, int]:
    return classes().ctypes.data, len(classes())


def count_ngrams(text: str, bits: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(buckets, counts), ascending, of a text in lower case."""
    found, content = library(), text.encode("utf-8", "surrogatepass")
    assert found is not None, "callers ask `library` first"
    capacity = len(content) // 2 + 16
    while True:
        made = np.empty((2, capacity), np.int64)
        count = found.count_ngrams(content, len(content), *_table(), bits, made.ctypes.data, capacity)
        if count < 0:
            raise MemoryError("quality: no memory for the n-grams of a text")
        if count <= capacity:
            return made[0, :count], made[1, :count]
        capacity = count
