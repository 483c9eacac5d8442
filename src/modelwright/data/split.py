"""Train or validation, decided by each document alone.

The side depends on the hash of the text and nothing else: adding, removing or reordering documents
moves no other, and a text that comes back from another source falls on the same side.
"""

from __future__ import annotations

import hashlib
from typing import Literal

Side = Literal["train", "validation"]
SIDES: tuple[Side, ...] = ("train", "validation")


def position(key: str, salt: str) -> float:
    """A number in [0, 1) that is even over keys and fixed for a key and a salt."""
    digest = hashlib.sha256(f"{salt}\x1f{key}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / (1 << 53)


def side_of(key: str, validation_fraction: float) -> Side:
    """Which side a text with this key (its sha256, or its question) is on."""
    return "validation" if position(key, "split") < validation_fraction else "train"
