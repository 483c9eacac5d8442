"""How a tokenizer treats texts: how long they become, what it spells out, and how unequal languages are.

Terms as in Petrov et al. 2023 (arXiv 2305.15425): the *premium* of a language is the number of tokens of a
text over the number for the same text in a reference language. Fertility is tokens per word.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from modelwright.tokenizer.bpe import BPETokenizer


@dataclass(frozen=True, slots=True)
class Fertility:
    """What texts come to. Words are what white space parts: no measure for Chinese, Thai or Japanese, where
    tokens per character is."""

    bytes: int
    characters: int
    words: int
    tokens: int
    broken_bytes: int
    """Bytes in tokens that hold no whole character: what is spelled out byte by byte."""

    @property
    def tokens_per_word(self) -> float:
        """Fertility."""
        return self.tokens / max(1, self.words)

    @property
    def tokens_per_character(self) -> float:
        """Tokens for each code point."""
        return self.tokens / max(1, self.characters)

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes that a token stands for on average."""
        return self.bytes / max(1, self.tokens)

    @property
    def coverage(self) -> float:
        """Share of the text that is written in tokens of whole characters."""
        return 1 - self.broken_bytes / max(1, self.bytes)

    def row(self) -> dict[str, float]:
        """The figures for a table."""
        return {
            "tokens": self.tokens,
            "tokens_per_word": round(self.tokens_per_word, 4),
            "tokens_per_character": round(self.tokens_per_character, 4),
            "bytes_per_token": round(self.bytes_per_token, 4),
            "coverage": round(self.coverage, 4),
        }


@dataclass(slots=True)
class Meter:
    """Measures texts with one tokenizer, and remembers which tokens occurred."""

    tokenizer: BPETokenizer
    occurrences: NDArray[np.int64] = field(init=False)
    """(vocab_size,) how often each token was seen."""
    _broken: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.occurrences = np.zeros(self.tokenizer.vocab_size, dtype=np.int64)
        lengths = self.tokenizer.byte_lengths
        pieces = (self.tokenizer.token_bytes(number) for number in range(self.tokenizer.vocab_size))
        broken = [0 if _is_whole(piece) else length for piece, length in zip(pieces, lengths, strict=True)]
        self._broken = np.array(broken, dtype=np.int64)

    def measure(self, texts: Iterable[str]) -> Fertility:
        """What these texts come to."""
        known = list(texts)
        ids, _ = self.tokenizer.encode_arrays(known)
        self.occurrences += np.bincount(ids, minlength=len(self.occurrences))
        return Fertility(
            bytes=sum(len(text.encode()) for text in known),
            characters=sum(map(len, known)),
            words=sum(len(text.split()) for text in known),
            tokens=len(ids),
            broken_bytes=int(self._broken[ids].sum()),
        )

    @property
    def unused(self) -> int:
        """Tokens that no text needed so far, special ones not counted."""
        ordinary = np.array(self.tokenizer.byte_lengths) > 0
        return int((ordinary & (self.occurrences == 0)).sum())


def _is_whole(piece: bytes) -> bool:
    try:
        piece.decode()
    except UnicodeDecodeError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Inequality:
    """How differently languages come out, from the tokens of the same text in each."""

    premium: Mapping[str, float]
    """Language -> tokens over the reference's."""
    gini: float
    """0 where all need the same, towards 1 where few need most."""
    worst_over_median: float

    @classmethod
    def of(cls, tokens: Mapping[str, int], reference: str) -> Inequality:
        """`tokens` counts the same text in each language."""
        values = sorted(tokens.values())
        return cls(
            premium={language: count / max(1, tokens[reference]) for language, count in tokens.items()},
            gini=gini(values),
            worst_over_median=values[-1] / max(1.0, statistics.median(values)),
        )


def gini(values: Sequence[float]) -> float:
    """The Gini coefficient of non-negative values."""
    ordered, count, total = sorted(values), len(values), sum(values)
    if not total:
        return 0.0
    return sum((2 * place - count - 1) * value for place, value in enumerate(ordered, 1)) / (count * total)
