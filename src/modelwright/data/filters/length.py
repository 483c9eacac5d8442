"""Drop documents that are too short or too long."""

from __future__ import annotations

from modelwright.base import config
from modelwright.base.schema import Document, Reason
from modelwright.base.seams import Step
from modelwright.data.steps import judging


class Config(config.Config):
    """Bounds in characters, both inclusive."""

    min_characters: int = 1
    max_characters: int | None = None


def step(config: Config) -> Step:
    """The Step."""

    def judge(document: Document) -> Reason | None:
        length = len(document.text)
        if length < config.min_characters:
            return Reason("too short", length, f"at least {config.min_characters} characters asked")
        if config.max_characters is not None and length > config.max_characters:
            return Reason("too long", length, f"at most {config.max_characters} characters asked")
        return None

    return judging(judge)
