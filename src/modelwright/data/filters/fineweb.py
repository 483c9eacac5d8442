"""FineWeb's own rules: lines that end like sentences, few short and few repeated ones (arXiv:2406.17557).

Order and details are those of datatrove 0.10. `null` switches a rule off.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from modelwright.base import config
from modelwright.base.schema import Document, Reason
from modelwright.base.seams import Step
from modelwright.data.steps import judging
from modelwright.data.words import kinds
from modelwright.data.words.limits import above, below
from modelwright.data.words.measures import duplicates
from modelwright.data.words.segment import segment

_Measured = tuple[str, float, float | None, float | None]
"""Rule, value, the least asked, the most allowed."""


class Config(config.Config):
    """The published thresholds. Lines without anything to see are not counted."""

    language: str = "en"
    """Whose words are counted (ISO 639-1)."""
    min_punctuated_lines: float | None = 0.12
    """Fraction of lines that end in a mark which ends a sentence, in any script."""
    max_short_lines: float | None = 0.67
    """Fraction of lines of at most `short_line` characters."""
    short_line: int = 30
    max_duplicate_line_characters: float | None = 0.01
    """Of all characters but line feeds."""
    max_line_feeds: float | None = 0.3
    """Line feeds a word."""


def step(config: Config) -> Step:
    """The Step."""
    return judging(lambda document: judge(document, config))


def judge(document: Document, config: Config) -> Reason | None:
    """Why the document goes, if it does."""
    text = document.text
    every = text.split("\n")
    lines = [line for line in every if line and not line.isspace()]
    if not lines:
        return Reason("fineweb: empty text", 0, "no line has anything to see")
    for rule, value, least, most in _measured(text, every, lines, config):
        reason = below(rule, value, least) or above(rule, value, most)
        if reason:
            return reason
    return None


def _measured(text: str, every: list[str], lines: list[str], config: Config) -> Iterator[_Measured]:
    """Each is measured only when those before it have passed."""
    terminal = _terminal()
    punctuated = sum(line[-1] in terminal for line in lines) / len(lines)
    yield "fineweb: punctuated lines", punctuated, config.min_punctuated_lines, None
    short = sum(len(line) <= config.short_line for line in lines) / len(lines)
    yield "fineweb: short lines", short, None, config.max_short_lines
    feeds = len(every) - 1
    again = duplicates(lines)[1] / (len(text) - feeds)
    yield "fineweb: duplicate line characters", again, None, config.max_duplicate_line_characters
    if config.max_line_feeds is not None:
        words = len(segment(text, config.language))
        yield "fineweb: line feeds per word", feeds / words, None, config.max_line_feeds


@cache
def _terminal() -> frozenset[str]:
    return kinds.characters(kinds.TERMINAL)
