"""What near duplicates are compared by: words without case, accents, punctuation and digits.

The rules are those by which FineWeb looks for duplicates (arXiv 2406.17557, appendix; datatrove's text
normalisation): lower case, numbers to 0, punctuation and symbols to spaces, accents away (canonical
decomposition without marks). Two things differ. Every mark and symbol of Unicode counts, where theirs is a
list; and letters of scripts that put no spaces between words are words of their own, where theirs need
a tokenizer for the language.

`normalise` is the plain version. The same rules as an array, one entry a code point, drive native.cpp.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

import numpy as np
from numpy.typing import NDArray

_SEPARATORS = ".,،٫⎖⎗⎘"
_NUMBER = re.compile(rf"\d+(?:[{_SEPARATORS}]\d+)?")

_WITHOUT_SPACES = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x3400, 0x9FFF),  # Han
    (0xF900, 0xFAFF),
    (0x20000, 0x323AF),
)

_LAST = 0x323AF
"""Above lie no letters that change: private use, and the tags that `_ABOVE` names."""
_ABOVE = tuple(range(0xE0000, 0xE01F0))

WORD, DROP, SPACE, DIGIT, ALONE, SEPARATOR, MANY = (kind << 24 for kind in range(7))
"""The kinds of code points in `table()`, above the 24 bits that hold what it becomes: a letter, nothing, a
space, a digit, a word of its own, a space that may stand within a number, several letters (the place in
`Table.many`)."""


def normalise(text: str) -> str:
    """The words of a text, in order, with one space between."""
    return " ".join(_NUMBER.sub("0", text).translate(_replacements()).split())


@cache
def _replacements() -> dict[int, str]:
    """Code point -> what stands for it, for those that change."""
    made = {code: _replacement(chr(code)) for code in (*range(_LAST + 1), *_ABOVE)}
    return {code: text for code, text in made.items() if text != chr(code)}


def _replacement(letter: str) -> str:
    if ord(letter) in _alone() and unicodedata.category(letter) in ("Lo", "Lm"):
        parts = unicodedata.normalize("NFD", letter)
        return "".join(f" {part} " for part in parts if unicodedata.category(part) in ("Lo", "Lm"))
    return "".join(_fold(part) for part in unicodedata.normalize("NFD", letter.lower()))


def _fold(letter: str) -> str:
    category = unicodedata.category(letter)
    if category in ("Mn", "Me", "Cf"):
        return ""
    return " " if category[0] in "PSZ" or category == "Cc" else letter


@cache
def _alone() -> frozenset[int]:
    return frozenset(code for low, high in _WITHOUT_SPACES for code in range(low, high + 1))


@cache
def table() -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """(0x110000,) kind and replacement of each code point, and what the `MANY` become: the count and then
    the letters of each, spaces among them."""
    codes = np.arange(0x110000, dtype=np.uint32)  # kind WORD, itself
    codes[ord(" ")] = SPACE
    many: list[int] = []
    for code, text in _replacements().items():
        stripped = text.strip()
        if not stripped:
            codes[code] = SPACE if text else DROP
        elif len(stripped) == 1 and stripped == text:
            codes[code] = WORD | ord(text)
        elif len(stripped) == 1 and text == f" {stripped} ":
            codes[code] = ALONE | ord(stripped)
        else:
            codes[code] = MANY | len(many)
            many += [len(text), *map(ord, text)]
    for code in range(_LAST + 1):
        if chr(code).isdecimal():
            codes[code] = DIGIT
    for separator in _SEPARATORS:
        codes[ord(separator)] = SEPARATOR
    return codes, np.array(many, np.uint32)
