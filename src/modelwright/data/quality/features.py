"""Text as hashed word n-grams (the hashing trick, Weinberger et al., arXiv 0902.2206).

The counting is compiled where it can be (`features.cpp`); `tokens` and `buckets` say what it counts.
"""

from __future__ import annotations

import re
import zlib

import numpy as np
from numpy.typing import NDArray

from modelwright.data.quality import native

_TOKEN = re.compile(r"\w+|[^\w\s]")
_MAX_REMEMBERED = 1 << 19

Vector = tuple[NDArray[np.int64], NDArray[np.float32]]
"""(buckets, values): ascending buckets without repeats, values of Euclidean length 1."""


class _Keys(dict[str, int]):
    """word -> 32-bit key, remembered, because a text repeats its words."""

    def __missing__(self, word: str) -> int:
        if len(self) >= _MAX_REMEMBERED:
            self.clear()
        key = self[word] = zlib.crc32(word.encode("utf-8", "surrogatepass"))
        return key


_keys = _Keys()


def tokens(text: str) -> list[str]:
    """Words and single marks in lower case."""
    return _TOKEN.findall(text.lower())


def buckets(words: list[str], bits: int) -> NDArray[np.int64]:
    """The bucket of each word, then of each pair of neighbours; below 2^bits."""
    keys = np.array([_keys[word] for word in words], np.uint64)
    pairs = keys[:-1] * np.uint64(0x9E3779B97F4A7C15) + keys[1:] + np.uint64(1)
    mixed = np.concatenate([keys, pairs]) * np.uint64(0xD6E8FEB86659FD93)
    return (mixed >> np.uint64(64 - bits)).astype(np.int64)


def vector(text: str, bits: int) -> Vector:
    """ln(1 + count) by bucket, scaled to length 1, so that long texts weigh no more than short ones. A
    text without words is the empty vector."""
    if native.library() is None:
        found, counts = np.unique(buckets(tokens(text), bits), return_counts=True)
    else:
        found, counts = native.count_ngrams(text.lower(), bits)
    values = np.log1p(counts).astype(np.float32)
    return found, values / max(float(np.linalg.norm(values)), 1e-12)
