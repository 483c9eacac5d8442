"""Settings of deduplication, apart from what does the work, so that a plan can be read without it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from modelwright.base import config

MEMORY_BYTES = 1 << 28
"""What sorting may take in memory, where nothing else is said."""

Unit = Literal["line", "paragraph", "sentences"]

GRAM = 32
"""Bytes that are hashed for minimizers: short ones are common, long ones leave few to choose from."""


class MinHash(config.Config):
    """How signatures are made, and when two are candidates."""

    ngram: int = Field(default=5, ge=1)
    """Words in a run."""
    bands: int = Field(default=14, ge=1)
    """Groups of hashes, any of which makes two texts candidates when all of it agrees."""
    rows: int = Field(default=8, ge=1)
    """Hashes in a band."""
    seed: int = 1
    """Chooses the orders."""

    @property
    def hashes(self) -> int:
        """Length of a signature."""
        return self.bands * self.rows

    @property
    def threshold(self) -> float:
        """About the likeness at which half of all pairs are found: (1 / bands)^(1 / rows)."""
        return (1 / self.bands) ** (1 / self.rows)

    def chance(self, similarity: float) -> float:
        """The probability that two texts of this likeness become candidates."""
        return 1 - (1 - similarity**self.rows) ** self.bands


class Lines(config.Config):
    """What a piece is, and when it is too many."""

    piece: Unit = "line"
    """A line, a paragraph (ended by an empty line), or three sentences in a row."""
    min_letters: int = Field(default=40, ge=1)
    """Pieces with fewer letters and digits are left alone: "Chapter 1" and "}" repeat with good reason."""
    keep: int = Field(default=1, ge=0)
    """How many copies stay, the first ones in the corpus."""
    drop_all_above: int | None = Field(default=None, ge=1)
    """Pieces with more copies than this go with all their copies; null: never."""
    memory_bytes: int = Field(default=MEMORY_BYTES, ge=1 << 16)
    """What sorting takes in memory."""


PASSES = 3
"""How often each byte is looked at for passages."""


class Passages(config.Config):
    """What counts as a repeated passage."""

    min_bytes: int = Field(default=100, ge=16)
    """Of a passage; 100 bytes are about 50 tokens of Lee et al.'s tokenizer."""
    memory_bytes: int = Field(default=MEMORY_BYTES, ge=1 << 16)
    """What this takes in memory besides the memory-mapped texts."""

    @property
    def gram(self) -> int:
        """Bytes of a minimizer."""
        return min(GRAM, self.min_bytes // 2)


class Removal(config.Config):
    """What happens to a document with repeated parts."""

    cut: bool = True
    """Whether the repeated parts are cut."""
    drop_above: float | None = Field(default=None, ge=0, le=1)
    """Documents of which more than this share (of bytes) is repeated go altogether; null keeps them."""
