"""The compiled loops of `native.cpp`, called on numpy arrays.

Where there is no compiler `library` is None, and callers take their plain path with the same results.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from modelwright.base.native import find

_SIGNATURES = {
    "signatures": "ppippipip>i",
    "hash_pieces": "pppipppp",
    "unite": "pppi",
    "minimizers": "pppiiipp>i",
    "windows": "pppiiipipp>i",
    "first_equal": "ppippiip>i",
}


@cache
def library() -> ctypes.CDLL | None:
    """The functions; None where they cannot be built."""
    return find(Path(__file__).with_name("native.cpp"), _SIGNATURES)


def call(name: str, *arguments: NDArray[Any] | int) -> int:
    """Run one function. Arrays are passed by address: the caller has made sure of their types, that they are
    contiguous, and of their lengths."""
    found = library()
    assert found is not None
    passed = [argument if isinstance(argument, int) else argument.ctypes.data for argument in arguments]
    result = getattr(found, name)(*passed)
    if result == -1:
        raise MemoryError(f"deduplication: no memory in '{name}'")
    return result or 0
