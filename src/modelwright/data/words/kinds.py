"""What every code point is to the rules, as one table of bits.

The rules ask about a character thousands of times a page ("is it a letter?", "may it be split off?"), in
Python and in C++. Both look it up here. Letters, digits, symbols and white space follow Python's
`unicodedata`; what stands below as text are the marks that the rules name one by one.
"""

from __future__ import annotations

import sys
import unicodedata
from collections import defaultdict
from functools import cache

import numpy as np
from numpy.typing import NDArray

SPACE = 1 << 0
LETTER = 1 << 1
"""A letter, or a mark on one (categories L and M)."""
LOWER = 1 << 2
"""A lower-case letter, or one of a script without cases."""
UPPER = 1 << 3
"""An upper-case letter, or one of a script without cases."""
ALPHABETIC = 1 << 4
"""`str.isalpha`: letters without marks."""
NUMBER = 1 << 5
"""Any number (category N)."""
DECIMAL = 1 << 6
"""A decimal digit of any script (category Nd)."""
PREFIX = 1 << 7
"""Is split off the front of a chunk."""
SUFFIX = 1 << 8
"""Is split off the end of a chunk."""
QUOTE = 1 << 9
ICON = 1 << 10
"""Stands alone wherever it stands: emoji, dingbats (category So)."""
BEFORE_STOP = 1 << 11
"""A full stop behind it ends something, and is split off."""
SYMBOL = 1 << 12
"""A word made of nothing else is no word to Gopher's rules."""
PUNCTUATION = 1 << 13
"""Category P."""
TERMINAL = 1 << 14
"""Ends a sentence."""
UNSPACED = 1 << 15
"""A letter of a script that is written without spaces: a word of its own where the language asks."""

BITS = {name: value for name, value in globals().items() if name.isupper() and isinstance(value, int)}
"""By name, for the C++ side."""

_PUNCT = "…,:;!?¿؟¡()[]{}<>_#*&。？！，、；：～·।،۔؛٪"
_QUOTES = "'\"”“`‘´’‚,„»«「」『』（）〔〕【】《》〈〉⟦⟧\u2329\u232a"
CURRENCY = "$£€¥฿₽﷼₴" + "".join(map(chr, range(0x20A0, 0x20C0)))
_PREFIXES = _PUNCT + _QUOTES + CURRENCY + "§%=—–"
_SUFFIXES = _PUNCT + _QUOTES + "—–"
_BEFORE_STOP = _PUNCT + _QUOTES + "0123456789%²-+|"

_TERMINAL = (
    "21 2E 3F 589 61D-61F 6D4 700-702 7F9 837 839 83D-83E 964-965 104A-104B 1362 1367-1368 166E 1735-1736 "
    "17D4-17D6 17D9-17DA 1803 1809 1944-1945 1AA8-1AAB 1B5A-1B5B 1B5E-1B5F 1B7D-1B7E 1C3B-1C3C 1C7E-1C7F "
    "203C-203D 2047-2049 2E2E 2E3C 2E53-2E54 3002 A4FF A60E-A60F A6F3 A6F7 A876-A877 A8CE-A8CF A92F "
    "A9C8-A9C9 AA5D-AA5F AAF0-AAF1 ABEB FE52 FE56-FE57 FF01 FF0E FF1F FF61 10A56-10A57 10F55-10F59 "
    "10F86-10F89 11047-11048 110BE-110C1 11141-11143 111C5-111C6 111CD 111DE-111DF 11238-11239 1123B-1123C "
    "112A9 1144B-1144C 115C2-115C3 115C9-115D7 11641-11642 1173C-1173E 11944 11946 11A42-11A43 11A9B-11A9C "
    "11C41-11C42 11EF7-11EF8 11F43-11F44 16A6E-16A6F 16AF5 16B37-16B38 16B44 16E98 1BC9F 1DA88"
)
"""Unicode's property Sentence_Terminal (PropList.txt), which `unicodedata` does not have."""

_SYMBOLS = (
    "0-8 B-1F 21-2F 3A-40 5B-60 7B-9F AB B4 BB 2013-2014 2019 201C-201E 2026 2236 2501 25BA 3001-3002 "
    "3008-300D 3010-3011 FF01 FF05 FF08-FF09 FF0C FF0E FF11 FF1A-FF1B FF1F FF5E"
)
"""Punctuation and control characters as CCNet lists them (arXiv:1911.00359); FineWeb's rules use the list."""

_UNSPACED = "E00-EFF F00-FFF 1000-109F 1780-17FF 3040-30FF 3400-4DBF 4E00-9FFF F900-FAFF 20000-323AF"
"""Thai and Lao, Tibetan, Burmese, Khmer, kana, Chinese characters (Unicode blocks)."""

_ASTRAL, _ASSIGNED = 0x20000, 0x32400
"""From the first to the second there are Chinese characters alone; behind it no letter, digit or symbol."""

_OF_CATEGORY: defaultdict[str, int] = defaultdict(int) | {
    "Lu": LETTER | UPPER | ALPHABETIC,
    "Lt": LETTER | UPPER | ALPHABETIC,
    "Ll": LETTER | LOWER | ALPHABETIC,
    "Lm": LETTER | LOWER | UPPER | ALPHABETIC,
    "Lo": LETTER | LOWER | UPPER | ALPHABETIC,
    "Mn": LETTER | LOWER | UPPER,
    "Mc": LETTER | LOWER | UPPER,
    "Me": LETTER | LOWER | UPPER,
    "Nd": NUMBER | DECIMAL,
    "Nl": NUMBER,
    "No": NUMBER,
    "So": ICON | PREFIX | SUFFIX,
    **dict.fromkeys(("Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po"), PUNCTUATION),
}


@cache
def table() -> NDArray[np.uint16]:
    """Shape (0x110000,): the bits of each code point. Made once a process, in about 40 ms."""
    bits = np.zeros(sys.maxunicode + 1, np.uint16)
    bits[:_ASTRAL] = list(map(_OF_CATEGORY.__getitem__, map(unicodedata.category, map(chr, range(_ASTRAL)))))
    bits[_ASTRAL:_ASSIGNED] = _OF_CATEGORY["Lo"]
    spaces = [code for code in range(0x3001) if chr(code).isspace()]
    bits[spaces] |= SPACE
    for characters, bit in (
        (_PREFIXES, PREFIX),
        (_SUFFIXES, SUFFIX),
        (_QUOTES, QUOTE),
        (_BEFORE_STOP, BEFORE_STOP),
    ):
        bits[[ord(character) for character in characters]] |= bit
    for ranges, bit in ((_TERMINAL, TERMINAL | SYMBOL), (_SYMBOLS, SYMBOL)):
        bits[_codes(ranges)] |= bit
    unspaced = _codes(_UNSPACED)
    bits[unspaced[bits[unspaced] & ALPHABETIC != 0]] |= UNSPACED
    bits[bits & LOWER != 0] |= BEFORE_STOP
    return bits


def _codes(ranges: str) -> NDArray[np.int64]:
    """`"21 2E-30"` -> the code points 0x21, 0x2E, 0x2F, 0x30."""
    parts = [part.split("-") for part in ranges.split()]
    return np.concatenate([np.arange(int(part[0], 16), int(part[-1], 16) + 1) for part in parts])


@cache
def of() -> memoryview:
    """The same table as something that gives Python's integers, for the plain path."""
    return memoryview(table())  # pyright: ignore[reportArgumentType] (numpy's stubs lack __buffer__ before 3.12)


def characters(bit: int) -> frozenset[str]:
    """All characters that have this bit."""
    return frozenset(map(chr, np.flatnonzero(table() & bit).tolist()))
