"""Text as words to compare: lower case, punctuation gone, numbers kept, slips of the pen told.

A word is a run of letters and digits. In scripts that are written without spaces (Han, kana, Thai, Khmer,
Burmese) each character is a word. What a character is stands in one table, which the compiled path reads
too.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

SEPARATOR, LETTER, ALONE = 0, 1, 2

LIMIT = 0x20000
"""Code points from here to 0x3FFFF are Han, those above separate."""

_LAST = 0x3FFFF
_SEPARATING = (
    *((0, 0x2F), (0x3A, 0x60), (0x7B, 0xA9), (0xAB, 0xB4), (0xB6, 0xB9), (0xBB, 0xBF), (0xD7, 0xD7)),
    *((0xF7, 0xF7), (0x55A, 0x55F), (0x589, 0x58A), (0x5BE, 0x5BE), (0x60C, 0x60C), (0x61B, 0x61F)),
    *((0x6D4, 0x6D4), (0x964, 0x965), (0x2000, 0x206F), (0x2190, 0x2BFF), (0x2E00, 0x2E7F)),
    *((0x3000, 0x3004), (0x3008, 0x3020), (0x3030, 0x3030), (0xD800, 0xF8FF), (0xFE10, 0xFE1F)),
    *((0xFE30, 0xFE6F), (0xFEFF, 0xFF0F), (0xFF1A, 0xFF20), (0xFF3B, 0xFF40), (0xFF5B, 0xFF65)),
    *((0xFFF0, 0xFFFE), (0x1F000, 0x1FAFF)),
)
_STANDING_ALONE = (
    *((0xE00, 0xEFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x3400, 0x9FFF)),
    *((0xF900, 0xFAFF), (LIMIT, _LAST)),
)


@cache
def classes() -> NDArray[np.uint8]:
    """(LIMIT,) SEPARATOR, LETTER or ALONE for each code point."""
    table = np.full(LIMIT, LETTER, np.uint8)
    for ranges, kind in ((_SEPARATING, SEPARATOR), (_STANDING_ALONE, ALONE)):
        for first, last in ranges:
            table[first : last + 1] = kind
    return table


@cache
def _pattern() -> re.Pattern[str]:
    def ranges(pairs: tuple[tuple[int, int], ...]) -> str:
        return "".join(f"{re.escape(chr(first))}-{re.escape(chr(last))}" for first, last in pairs)

    alone = ranges(_STANDING_ALONE)
    beyond = f"{chr(_LAST + 1)}-{chr(0x10FFFF)}"
    return re.compile(f"[{alone}]|[^{ranges(_SEPARATING)}{alone}{beyond}]+")


_ESCAPE = re.compile(r"\\(?:u([0-9a-f]{4})|[nrt])")

FILLER = "\uffff"
"""The rest of an escape in a folded text; no part of words. Unicode has no such character."""


def fold(text: str) -> str:
    """Lower case, with the same number of code points, so that places in it are places in the text. Escapes
    of JSON and of source code are read: a backslash and n, r or t parts words, u0123 is its character."""
    folded = text.replace("İ", "i").lower()  # U+0130 is the one letter that lower() makes two of
    return _ESCAPE.sub(_unescaped, folded) if "\\" in folded else folded


def _unescaped(escape: re.Match[str]) -> str:
    """As many characters as the escape has. Halves of a surrogate pair stay apart: they part words."""
    shown = " " if escape[1] is None else chr(int(escape[1], 16)).replace("İ", "i").lower()
    return shown.ljust(len(escape[0]), FILLER)


def words(folded: str) -> list[tuple[str, int, int]]:
    """(word, start, end) in code points of a folded text."""
    found = [(match[0], match.start(), match.end()) for match in _pattern().finditer(folded)]
    if FILLER not in folded:
        return found
    without = ((word.replace(FILLER, ""), start, end) for word, start, end in found)
    return [(word, start, end) for word, start, end in without if word]


LEAST_LETTERS = 4


def alike(word: bytes, other: bytes) -> bool:
    """Whether one is the other misspelt: a byte more, less or changed, or two neighbours swapped (Damerau,
    1964), none of them a digit. Words of under `LEAST_LETTERS` bytes have too many neighbours to tell."""
    m, n = len(word), len(other)
    if min(m, n) < LEAST_LETTERS or abs(m - n) > 1:
        return False
    head = tail = 0
    while head < min(m, n) and word[head] == other[head]:
        head += 1
    while tail < min(m, n) - head and word[m - 1 - tail] == other[n - 1 - tail]:
        tail += 1
    changed, into = word[head : m - tail], other[head : n - tail]
    if any(0x30 <= byte <= 0x39 for byte in changed + into):
        return False
    return max(len(changed), len(into)) <= 1 or (len(changed) == 2 and changed == into[::-1])


_WRAP = (1 << 64) - 1

GRAM_FACTOR = 0x9E3779B97F4A7C15
"""2^64 divided by the golden ratio (Knuth's multiplicative hashing)."""

PAIR_KEY = 0xD6E8FEB86659FD93
"""What the keys of pairs of words start from; those of n-grams start from 0."""


@lru_cache(1 << 18)
def word_key(word: str) -> int:
    """A 64-bit key: FNV-1a over the UTF-8 bytes, then the finaliser of MurmurHash3 to spread it."""
    key = 0xCBF29CE484222325
    for byte in word.encode("utf-8", "surrogatepass"):
        key = ((key ^ byte) * 0x100000001B3) & _WRAP
    key = ((key ^ (key >> 33)) * 0xFF51AFD7ED558CCD) & _WRAP
    return key ^ (key >> 33)


def extend_key(key: int, word: int) -> int:
    """The key of an n-gram, one word (its number in the vocabulary) longer."""
    key = ((key ^ (word + 1)) * GRAM_FACTOR) & _WRAP
    return key ^ (key >> 29)
