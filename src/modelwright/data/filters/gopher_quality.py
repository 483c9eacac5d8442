"""Gopher's quality rules: enough real words, few symbols, lines that are prose (arXiv:2112.11446, A1.1).

Order and details are those of datatrove 0.10, with which FineWeb was made; so the first rule that fails is
the same. `null` switches a rule off.
"""

from __future__ import annotations

from pydantic import Field

from modelwright.base import config
from modelwright.base.schema import Document, Reason
from modelwright.base.seams import Step
from modelwright.data.steps import judging
from modelwright.data.words.limits import above, below
from modelwright.data.words.measures import measure_words
from modelwright.data.words.segment import segment

_NAME = "gopher_quality"


class Config(config.Config):
    """The published thresholds. Words are those of `data.words`; fractions are from 0 to 1."""

    language: str = "en"
    """Whose words are counted (ISO 639-1)."""
    min_words: int | None = 50
    """Words that are more than punctuation."""
    max_words: int | None = 100_000
    min_mean_word_length: float | None = 3.0
    """Characters a word, over the same words."""
    max_mean_word_length: float | None = 10.0
    max_symbol_ratio: float | None = 0.1
    """Hash signs a word, and ellipses a word."""
    max_bullet_lines: float | None = 0.9
    """Fraction of lines that begin with a bullet or a hyphen."""
    max_ellipsis_lines: float | None = 0.3
    """Fraction of lines that end in an ellipsis."""
    min_alphabetic_words: float | None = 0.8
    """Fraction of words with a letter."""
    min_stop_words: int | None = 2
    """How many different stop words must occur."""
    stop_words: tuple[str, ...] = Field(
        default=("the", "be", "to", "of", "and", "that", "have", "with"), min_length=1
    )


def step(config: Config) -> Step:
    """The Step."""
    return judging(lambda document: judge(document, config))


def judge(document: Document, config: Config) -> Reason | None:
    """Why the document goes, if it does."""
    text = document.text
    segmentation = segment(text, config.language)
    found = measure_words(segmentation, config.stop_words)
    tokens = len(segmentation)
    if tokens == 0:
        return Reason(f"{_NAME}: words", 0, "the text is empty")
    lines = text.splitlines()
    length = found.characters / found.words if found.words else 0.0
    ellipses = text.count("...") + text.count("…")
    symbols = config.max_symbol_ratio
    return (
        below(f"{_NAME}: words", found.words, config.min_words)
        or above(f"{_NAME}: words", found.words, config.max_words)
        or below(f"{_NAME}: mean word length", length, config.min_mean_word_length)
        or above(f"{_NAME}: mean word length", length, config.max_mean_word_length)
        or above(f"{_NAME}: hash signs per word", text.count("#") / tokens, symbols)
        or above(f"{_NAME}: ellipses per word", ellipses / tokens, symbols)
        or above(f"{_NAME}: bullet lines", _bullets(lines), config.max_bullet_lines)
        or above(f"{_NAME}: lines ending in an ellipsis", _ellipses(lines), config.max_ellipsis_lines)
        or below(f"{_NAME}: words with a letter", found.alphabetic / tokens, config.min_alphabetic_words)
        or below(f"{_NAME}: stop words", found.stop_words, config.min_stop_words)
    )


def _bullets(lines: list[str]) -> float:
    return sum(line.lstrip().startswith(("•", "-")) for line in lines) / len(lines)


def _ellipses(lines: list[str]) -> float:
    return sum(line.rstrip().endswith(("...", "…")) for line in lines) / len(lines)
