"""Does this text hold that answer? Case, punctuation and accents do not matter; whole words do.

The text comes from a model, so it is hostile: only its first `MAX_CHARACTERS` are read, and every
function takes time linear in what it reads.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

MAX_CHARACTERS = 8_000
"""No honest answer to our problems is longer; a million characters of noise cost no more than this."""

_ACCENTS = range(0x300, 0x370)  # combining accents of Latin, Greek and Cyrillic
_APOSTROPHES = range(0x2B9, 0x2C0)  # letters by category, apostrophes to the eye: Nuku\u02bbalofa
_LETTERS = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ð": "d", "æ": "ae", "œ": "oe", "ı": "i"})
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u30ff\u3400-\u9fff\uac00-\ud7a3\U00020000-\U0003ffff]"
)
"""Scripts in which words run together or carry particles (Thai, Lao, Burmese, Khmer, kana, Han, Hangul):
there each letter is a word of its own, so "whole words" asks for the same letters in the same order."""


def normalise(text: str) -> str:
    """Words in one plain spelling, one space between them: "Bogotá, D.C.!" -> "bogota d c"."""
    plain = "".join(
        letter
        for letter in unicodedata.normalize("NFKD", text[:MAX_CHARACTERS]).casefold()
        if ord(letter) not in _ACCENTS
    )
    plain = unicodedata.normalize("NFC", plain).translate(_LETTERS)
    kept = "".join(letter if _in_word(letter) else " " for letter in plain)
    return " ".join(_UNSPACED.sub(r" \g<0> ", kept).split())


def contains(text: str, answer: str) -> bool:
    """Whether `answer` stands in `text` as whole words.

    Answers of one or two letters (the symbols I, He, In, No) are common English words as well: see
    `holds_symbol`.
    """
    wanted = normalise(answer)
    if len(answer) <= 2 and answer.isascii() and answer.isalpha():
        return holds_symbol(text, answer)
    return bool(wanted) and f" {wanted} " in f" {normalise(text)} "


def starts_with(text: str, answer: str) -> bool:
    """Whether `text` begins with `answer` as whole words."""
    wanted = normalise(answer)
    if len(answer) <= 2 and answer.isascii() and answer.isalpha():
        return re.match(rf"[\s\W]*{re.escape(answer)}(?!\w)", text[:MAX_CHARACTERS]) is not None
    return bool(wanted) and f"{normalise(text)} ".startswith(f"{wanted} ")


def first_held(text: str, answers: Iterable[str]) -> str | None:
    """The first of `answers` that `text` contains."""
    return next((answer for answer in answers if contains(text, answer)), None)


def holds_symbol(text: str, symbol: str) -> bool:
    """Whether `text` states a symbol of one or two letters, in its own case.

    It must close a clause ("... is He.") or be the whole text. So "No, I do not know." is neither
    nobelium nor iodine.
    """
    shown = text[:MAX_CHARACTERS].strip()
    if re.fullmatch(rf"\W*{re.escape(symbol)}\W*", shown[:64]) and len(shown) <= 64:
        return True
    return any(match.start() for match in re.finditer(rf"(?<!\w){re.escape(symbol)}(?=\W*$|[^\w\s])", shown))


def _in_word(letter: str) -> bool:
    """Letters, digits and the marks that some scripts write vowels with."""
    return unicodedata.category(letter)[0] in "LNM" and ord(letter) not in _APOSTROPHES
