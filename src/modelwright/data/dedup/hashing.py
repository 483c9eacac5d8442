"""The hashes of native.cpp in numpy: polynomials modulo 2^64 over letters or bytes, then mixed.

A polynomial over any stretch of a sequence comes from sums over the whole of it, since an odd base has an
inverse modulo 2^64. Such polynomials alone can be made to collide; where a collision would matter (the
passages of substring.py) bytes are compared as well.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BASE = 0x9E3779B97F4A7C15
"""For letters and bytes."""
WORDS = 0xD6E8FEB86659FD93
"""For words in a row."""

Integers = NDArray[np.int64]
Hashes = NDArray[np.uint64]


def mix(values: Hashes) -> Hashes:
    """A bijection of 64-bit numbers that spreads each bit over all (splitmix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def polynomials(codes: NDArray[Any], starts: Integers, ends: Integers, base: int = BASE) -> Hashes:
    """For each stretch codes[start:end] the sum of codes[i] base^(end - 1 - i), modulo 2^64."""
    inverse = pow(base, -1, 1 << 64)
    scaled = codes.astype(np.uint64) * _powers(inverse, len(codes))
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(scaled, dtype=np.uint64)])
    powers = np.concatenate([np.array([inverse], np.uint64), _powers(base, len(codes))])  # from base^-1
    return (sums[ends] - sums[starts]) * powers[ends]


def _powers(base: int, count: int) -> Hashes:
    powers = np.full(count, base, np.uint64)
    powers[:1] = 1
    return np.cumprod(powers, dtype=np.uint64)
