"""mC4's rule for pages: a few long paragraphs, or it is no text (arXiv:2010.11934)."""

from __future__ import annotations

from heapq import nlargest

from pydantic import Field

from modelwright.base import config
from modelwright.base.schema import Document, Reason
from modelwright.base.seams import Step
from modelwright.data.steps import judging


class Config(config.Config):
    """The published thresholds. A paragraph is a line."""

    paragraphs: int = Field(default=3, ge=1)
    """How many long ones there must be."""
    min_characters: int = 200
    """What is long."""


def step(config: Config) -> Step:
    """The Step."""

    def judge(document: Document) -> Reason | None:
        longest = nlargest(config.paragraphs, map(len, document.text.split("\n")))
        long = sum(length >= config.min_characters for length in longest)
        if long >= config.paragraphs:
            return None
        asked = f"at least {config.paragraphs} of {config.min_characters} characters asked"
        return Reason("c4_paragraphs: long paragraphs", long, asked)

    return judging(judge)
