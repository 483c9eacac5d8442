"""Drop documents that are too short or too long."""

from __future__ import annotations

from collections.abc import Iterator

from modelwright.base import config
from modelwright.base.schema import Document
from modelwright.base.seams import Drop, Step


class Config(config.Config):
    """Bounds in characters, both inclusive."""

    min_characters: int = 1
    max_characters: int | None = None


def step(config: Config) -> Step:
    """The Step."""

    def keep(documents: Iterator[Document], drop: Drop) -> Iterator[Document]:
        for document in documents:
            length = len(document.text)
            if length < config.min_characters:
                drop(document, f"too short: {length} characters, at least {config.min_characters} asked")
            elif config.max_characters is not None and length > config.max_characters:
                drop(document, f"too long: {length} characters, at most {config.max_characters} asked")
            else:
                yield document

    return keep
