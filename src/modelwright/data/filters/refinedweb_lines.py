"""RefinedWeb's line rules: what is menu, counter or button is cut out of the text (arXiv:2306.01116, G.2).

Thresholds and details as DCLM wrote them down (arXiv:2406.11794). A document that loses more than a few words
is dropped. What was removed from one that stays is counted in `meta["removed_lines"]`, by rule.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from pydantic import Field

from modelwright.base import config
from modelwright.base.schema import Document, Reason
from modelwright.base.seams import Drop, Step
from modelwright.data.words.limits import above
from modelwright.data.words.lines import with_lines

_COUNTER = re.compile(
    r"\W*\d[\d,.]*[kmb]?\s+(?:likes|shares|comments|retweets|reposts|quotes|bookmarks|upvotes|downvotes"
    r"|downloads|views|followers)\W*",
    re.IGNORECASE,
)
_BUTTON = re.compile(r"\s?items in cart|\s?read more\.\.\.$|^sign-in\s?", re.IGNORECASE)


class Config(config.Config):
    """The published rules. `null` and `false` switch one off."""

    max_uppercase: float | None = Field(default=0.5, ge=0, le=1)
    """Fraction of a line's characters that are upper-case letters."""
    numeric: bool = True
    """Remove lines of digits alone."""
    counters: bool = True
    """Remove lines like "3 likes"."""
    min_words: int | None = 2
    """Remove lines of fewer words (between white space)."""
    buttons: bool = True
    """Cut "items in cart", "Read more..." at the end and "Sign-in" at the beginning out of short lines."""
    button_words: int = 10
    """What is short."""
    max_removed_words: float | None = Field(default=0.05, ge=0, le=1)
    """Drop documents of which a larger fraction of the words was removed."""


def step(config: Config) -> Step:
    """The Step."""

    def clean(documents: Iterator[Document], drop: Drop) -> Iterator[Document]:
        for document in documents:
            removed: Counter[str] = Counter()
            text = "\n".join(_kept_lines(document.text, config, removed)).strip()
            if not text:
                drop(document, Reason("refinedweb_lines: nothing left", says="every line was removed"))
                continue
            before = count_words(document.text)
            lost = (before - count_words(text)) / before if before and removed else 0.0
            reason = above("refinedweb_lines: removed words", lost, config.max_removed_words)
            if reason:
                drop(document, reason)
            else:
                yield with_lines(document, text if removed else document.text, removed)

    return clean


def count_words(text: str) -> int:
    """Words between white space that begin with a letter or a digit."""
    return sum(word[0].isalnum() for word in text.split())


def _kept_lines(text: str, config: Config, removed: Counter[str]) -> Iterator[str]:
    for line in text.split("\n"):
        rule = _rule_against(line, config) if line else None
        if rule:
            removed[f"refinedweb_lines: {rule}"] += 1
            continue
        short = config.buttons and len(line.split()) <= config.button_words
        cut = _BUTTON.sub("", line) if short else line
        if cut != line:
            removed["refinedweb_lines: button"] += 1
        if cut == line or (cut and not cut.isspace()):
            yield cut


def _rule_against(line: str, config: Config) -> str | None:
    """The rule by which a line goes."""
    most = config.max_uppercase
    if most is not None and not line.islower() and sum(map(str.isupper, line)) / len(line) > most:
        return "upper case"
    if config.numeric and line.isdigit():
        return "numeric"
    if config.counters and _COUNTER.fullmatch(line):
        return "counter"
    if config.min_words is not None and len(line.split(None, config.min_words)) < config.min_words:
        return "few words"
    return None
