"""mC4's rule for pages: a few long paragraphs, or it is no text (arXiv:2010.11934)."""

from __future__ import annotations

from pydantic import Field

from modelwright.base import config
from modelwright.base.schema import Document, Reason
from modelwright.base.seams import Step
from modelwright.data.steps import judging


class Config(config.Config):
    """The published thresholds. A paragraph is a line."""

    paragraphs: int = Field(default=3, ge=1)
    """How many long ones there must be."""
    min_characters: int = Field(default=200, ge=1)
    """What is long."""


def step(config: Config) -> Step:
    """The Step."""

    def judge(document: Document) -> Reason | None:
        long = count_long(document.text, config.min_characters, config.paragraphs)
        if long >= config.paragraphs:
            return None
        asked = f"at least {config.paragraphs} of {config.min_characters} characters asked"
        return Reason("c4_paragraphs: long paragraphs", long, asked)

    return judging(judge)


def count_long(text: str, characters: int, enough: int) -> int:
    """Lines of at least so many characters, counted up to `enough`. Lines that end within `characters` of the
    start of a line are short, all of them: they are passed over at once."""
    count = start = 0
    while count < enough and start + characters <= len(text):
        feed = text.rfind("\n", start, start + characters)
        if feed < 0:
            count += 1
            feed = text.find("\n", start + characters)
            if feed < 0:
                break
        start = feed + 1
    return count
