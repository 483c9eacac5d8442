"""Where to look. Clean prose is most of any corpus: it is passed over by array operations, and the regular
expressions see only the few places that could hold anything."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Region = tuple[int, int]
"""text[start:end], in code points."""

MAX_GAP = 3
"""Characters between two digits of one number."""

MIN_KEY = 16
"""Letters of the shortest run that a key is looked for in."""

_BEFORE, _AFTER = 24, 40
"""How far a number's other characters may reach: "Phone: (", or the letters of an IBAN."""

_KEY_LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
_IN_KEY = bytes(letter in _KEY_LETTERS for letter in range(256))


def one_byte_each(text: str) -> NDArray[np.uint8]:
    """(n,) a byte for each of the n code points; those beyond Latin-1 are question marks."""
    return np.frombuffer(text.encode("latin-1", "replace"), np.uint8)


def number_regions(letters: NDArray[np.uint8], min_digits: int) -> list[tuple[int, int, int]]:
    """(digits, start, end) around every run of at least `min_digits` digits with small gaps."""
    digits = np.flatnonzero((letters - np.uint8(48)) < 10)  # below "0" wraps around to large numbers
    if len(digits) < min_digits:
        return []
    edges = np.flatnonzero(np.diff(digits) > MAX_GAP + 1) + 1
    first, end = np.append(0, edges), np.append(edges, len(digits))
    long = np.flatnonzero(end - first >= min_digits)
    first, end = first[long], end[long]
    counts, starts, ends = end - first, digits[first] - _BEFORE, digits[end - 1] + _AFTER
    starts, ends = np.maximum(starts, 0), np.minimum(ends, len(letters))
    return list(zip(counts.tolist(), starts.tolist(), ends.tolist(), strict=True))


def key_regions(letters: NDArray[np.uint8]) -> list[Region]:
    """Runs of at least `MIN_KEY` letters, digits, _ and -: longer than words."""
    inside = np.frombuffer(letters.tobytes().translate(_IN_KEY), np.bool_)
    width = 1
    while width < MIN_KEY and len(inside) > width:  # inside[i]: a run of `width` starts at i
        inside = inside[:-width] & inside[width:]
        width *= 2
    starts = np.flatnonzero(inside) if width == MIN_KEY else inside[:0]
    if not len(starts):
        return []
    edges = np.flatnonzero(np.diff(starts) > 1) + 1
    first, last = starts[np.append(0, edges)], starts[np.append(edges, len(starts)) - 1]
    return list(zip(first.tolist(), (last + MIN_KEY).tolist(), strict=True))


def places_of(text: str, part: str) -> list[int]:
    """Where a part occurs, without overlaps."""
    places: list[int] = []
    at = text.find(part)
    while at >= 0:
        places.append(at)
        at = text.find(part, at + len(part))
    return places
