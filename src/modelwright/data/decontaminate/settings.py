"""Settings of decontamination, apart from what does the work, so that a plan can be read without it."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from modelwright.base import config

BARS: Mapping[str, float] = {"verbatim": 0.98, "re-wrapped": 0.98, "embedded": 0.95, "edited": 0.8}
"""Disguise -> the recall asked for. Questions without their answers have no bar; they are reported."""


class Config(config.Config):
    """What counts as contaminated."""

    threshold: float = Field(default=0.8, ge=0.5, le=1.0)
    """Share of an item's weight that has to be found, for items of `long_words` and more."""
    short_words: int = Field(default=5, ge=1)
    """Items of at most so many words have to be found whole; in between, the share falls in a line."""
    long_words: int = Field(default=20, ge=2)
    least_nats: float = 22.0
    """A question decides alone if its words weigh so much (ln 1/frequency, added up); a lighter one needs an
    answer or passage beside it that makes up for it. What weighs less with both is too generic to be told
    from ordinary text."""
    ngram_words: int = Field(default=4, ge=2, le=16)
    """Words of a seed."""
    max_postings: int = Field(default=64, ge=1)
    """Seeds that more places of the items share are not followed."""
