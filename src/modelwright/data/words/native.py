"""The compiled functions of `words.cpp` and `measures.cpp`, called on Python's strings.

Where there is no compiler `usable` says no and callers take their plain path, which gives the same results.
Texts are handed over as UTF-32, so that a place in them is a character, as it is in Python.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from modelwright.base.native import find
from modelwright.data.words import kinds, plain
from modelwright.data.words.exceptions import exceptions

_WORDS = {
    "open_rules": "ppii>p",
    "find_words": "psipi>i",
    "find_sentences": "psipi>i",
    "count_sentences": "psi>i",
}
_MEASURES = {"measure_words": "pspipp", "measure_repeats": "spipiip"}
_turn = Lock()
"""A language's rules have room for one text at work; while it is cut other threads run."""
_MOST_CHARACTERS = (1 << 31) - 1
"""Places are written as 32 bit numbers."""


@cache
def _library(name: str) -> ctypes.CDLL | None:
    flags = tuple(f"-D{bit}={value}" for bit, value in kinds.BITS.items())
    signatures = _WORDS if name == "words" else _MEASURES
    return find(Path(__file__).with_name(f"{name}.cpp"), signatures, flags)


def _loaded(name: str) -> ctypes.CDLL:
    found = _library(name)
    assert found is not None, "callers ask `usable` first"
    return found


def usable(text: str) -> bool:
    """Whether the compiled functions can work on this text."""
    return (
        len(text) <= _MOST_CHARACTERS and _library("words") is not None and _library("measures") is not None
    )


def codes_of(text: str) -> bytes:
    """UTF-32 in this machine's order, without a mark of it. Half a surrogate pair stays what it is."""
    return text.encode("utf-32-le", "surrogatepass")


@cache
def _rules(language: str) -> int:
    """A language's rules in the library's memory, where they stay."""
    known, patterns = (
        exceptions(language),
        {chunk: pattern for pattern, chunk in plain.patterns(language).items()},
    )
    data: list[int] = []
    for chunk in sorted({*known, *plain.UNITS}):
        pieces, pattern = known.get(chunk, ()), patterns.get(chunk, ())
        data += [len(chunk), (chunk in known) + 2 * (chunk in plain.UNITS), len(pieces), len(pattern)]
        data += [*map(ord, chunk), *map(len, pieces), *map(len, pattern)]
    packed = np.array(data, np.int32)
    table = kinds.table().ctypes.data
    made = _loaded("words").open_rules(table, packed.ctypes.data, len(packed), int(language != "en"))
    assert made, "the rules were packed wrongly"
    return made


def find_words(codes: bytes, language: str) -> NDArray[np.int32]:
    """The words of a text: shape (words, 2), where each starts and where it ends."""
    return _all("find_words", codes, language).reshape(-1, 2)


def find_sentences(codes: bytes, language: str) -> NDArray[np.int32]:
    """Where each sentence ends: shape (sentences,)."""
    return _all("find_sentences", codes, language)


def _all(name: str, codes: bytes, language: str) -> NDArray[np.int32]:
    """All that the function writes: asked again with more room if a guess was too small."""
    find, rules, size = getattr(_loaded("words"), name), _rules(language), len(codes) // 4
    values = np.empty(size // 2 + 16, np.int32)
    with _turn:
        count: int = find(rules, codes, size, values.ctypes.data, len(values))
        if count > len(values):
            values = np.empty(count, np.int32)
            find(rules, codes, size, values.ctypes.data, count)
    return values[:count]


def count_sentences(codes: bytes, language: str) -> int:
    """Sentences in a text, each line of which is taken as a text of its own."""
    rules = _rules(language)
    with _turn:
        return _loaded("words").count_sentences(rules, codes, len(codes) // 4)


def measure_words(
    codes: bytes, spans: NDArray[np.int32], stop_words: Iterable[str]
) -> tuple[int, int, int, int]:
    """See `measures.WordMeasures`; `spans` is what `find_words` gave."""
    found = (ctypes.c_int64 * 4)()
    stop = _packed(tuple(stop_words))
    table, where = kinds.table().ctypes.data, spans.ctypes.data
    _loaded("measures").measure_words(table, codes, where, len(spans), stop.ctypes.data, found)
    return found[0], found[1], found[2], found[3]


@cache
def _packed(words: tuple[str, ...]) -> NDArray[np.int32]:
    data = [len(words)]
    for word in words:
        data += [len(word), *map(ord, word)]
    return np.array(data, np.int32)


def measure_repeats(
    codes: bytes, spans: NDArray[np.int32], top: Sequence[int], repeated: Sequence[int]
) -> tuple[list[int], list[int]]:
    """See `measures.Repeats`; `spans` is what `find_words` gave."""
    sizes = (ctypes.c_int32 * (len(top) + len(repeated)))(*top, *repeated)
    found = (ctypes.c_int64 * len(sizes))()
    measure = _loaded("measures").measure_repeats
    measure(codes, spans.ctypes.data, len(spans), sizes, len(top), len(sizes), found)
    return found[: len(top)], found[len(top) :]
