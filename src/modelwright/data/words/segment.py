"""A text and its words: made once a text, for all filters of a chain that count words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from modelwright.data.words import native, plain


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """Where the words of a text are."""

    text: str
    codes: bytes | None
    """The text for the compiled functions; None on the plain path."""
    spans: NDArray[np.int32]
    """(words, 2): the place of each word's first character, and the place behind its last."""

    def __len__(self) -> int:
        return len(self.spans)

    def words(self) -> list[str]:
        """The words as strings."""
        return [self.text[start:end] for start, end in self.spans.tolist()]


@lru_cache(2)
def segment(text: str, language: str = "en") -> Segmentation:
    """The words of a text. The last ones are kept, since filters ask for the same text one after another.

    `language` is an ISO 639-1 code. "en" knows English contractions and abbreviations, and gives the words of
    spaCy's blank English pipeline. Any other language has the same rules without these, and each letter of a
    script without spaces (Chinese, Japanese kana, Thai, Lao, Khmer, Burmese, Tibetan) is a word.
    """
    if not native.usable(text):
        return Segmentation(text, None, np.array(plain.words(text, language), np.int32).reshape(-1, 2))
    codes = native.codes_of(text)
    return Segmentation(text, codes, native.find_words(codes, language))


def words(text: str, language: str = "en") -> list[str]:
    """The words of a text."""
    return segment(text, language).words()


def sentences(text: str, language: str = "en") -> list[str]:
    """The sentences of a text; joined they are the text. White space between two belongs to the later one."""
    if native.usable(text):
        ends: list[int] = native.find_sentences(native.codes_of(text), language).tolist()
    else:
        ends = plain.sentence_ends(text, language)
    return [text[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def count_sentences(lines: Sequence[str], language: str = "en") -> int:
    """Sentences in all lines (without line feeds), each a text of its own: at least one a line."""
    if not lines:
        return 0
    text = "\n".join(lines)
    if native.usable(text):
        return native.count_sentences(native.codes_of(text), language)
    return sum(len(plain.sentence_ends(line, language)) for line in lines)
