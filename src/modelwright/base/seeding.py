"""Randomness comes from one seed and names, never from a global state.

`derive(seed, "pretrain", step)` gives each use its own stream, so adding a use elsewhere changes
nothing here, and a resumed run draws what the unbroken one would have drawn.
"""

from __future__ import annotations

import hashlib


def derive(seed: int, *names: str | int) -> int:
    """A stable 63-bit seed for one use of randomness."""
    text = "\x1f".join([str(seed), *(str(name) for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
