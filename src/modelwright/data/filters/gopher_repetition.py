"""Gopher's repetition rules: texts that say the same again and again (arXiv:2112.11446, table A1).

Order and details are those of datatrove 0.10, with which FineWeb was made. `null` switches a rule off, and so
does an empty list of runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from modelwright.base import config
from modelwright.base.schema import Document, Reason
from modelwright.base.seams import Step
from modelwright.data.steps import judging
from modelwright.data.words.limits import above
from modelwright.data.words.measures import duplicates, measure_repeats
from modelwright.data.words.segment import segment

Run = tuple[Annotated[int, Field(ge=1)], float]
"""Length in words, and the fraction of the text's characters that is allowed."""

_BETWEEN_PARAGRAPHS = re.compile("\n{2,}")
_BETWEEN_LINES = re.compile("\n+")


class Config(config.Config):
    """The published thresholds: fractions of lines, of paragraphs, and of the text's characters."""

    language: str = "en"
    """Whose words are counted (ISO 639-1)."""
    max_duplicate_paragraphs: float | None = 0.3
    max_duplicate_paragraph_characters: float | None = 0.2
    max_duplicate_lines: float | None = 0.3
    max_duplicate_line_characters: float | None = 0.2
    max_top_runs: tuple[Run, ...] = ((2, 0.2), (3, 0.18), (4, 0.16))
    """[words, fraction]: characters in the most frequent run of so many words."""
    max_repeated_runs: tuple[Run, ...] = ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.1))
    """[words, fraction]: characters in all runs of so many words that came before."""


def step(config: Config) -> Step:
    """The Step."""
    return judging(lambda document: judge(document, config))


def judge(document: Document, config: Config) -> Reason | None:
    """Why the document goes, if it does."""
    for rule, value, most in _measured(document.text, config):
        reason = above(f"gopher_repetition: {rule}", value, most)
        if reason:
            return reason
    return None


def _measured(text: str, config: Config) -> Iterator[tuple[str, float, float | None]]:
    """(rule, value, most allowed), each measured only when those before it have passed."""
    if not text:
        yield "empty text", 1.0, 0.0
        return
    paragraphs = _BETWEEN_PARAGRAPHS.split(text.strip())
    count, characters = duplicates(paragraphs)
    yield "duplicate paragraphs", count / len(paragraphs), config.max_duplicate_paragraphs
    most = config.max_duplicate_paragraph_characters
    yield "duplicate paragraph characters", characters / len(text), most
    lines = _BETWEEN_LINES.split(text)
    count, characters = duplicates(lines)
    yield "duplicate lines", count / len(lines), config.max_duplicate_lines
    yield "duplicate line characters", characters / len(text), config.max_duplicate_line_characters
    top, repeated = config.max_top_runs, config.max_repeated_runs
    if not top and not repeated:
        return
    found = measure_repeats(
        segment(text, config.language), [words for words, _ in top], [words for words, _ in repeated]
    )
    for (words, most), characters in zip(top, found.top, strict=True):
        if characters is not None:
            yield f"top {words}-gram characters", characters / len(text), most
    for (words, most), characters in zip(repeated, found.repeated, strict=True):
        yield f"repeated {words}-gram characters", characters / len(text), most
