"""Language identification: documents in the languages that are kept, with language and score in their `meta`.

The model is fastText's compressed lid.176 (see `data.language`). FineWeb, RefinedWeb and DCLM keep English
from a score of 0.65 on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

from pydantic import Field

from modelwright.base import config
from modelwright.base.schema import Document, Reason
from modelwright.base.seams import Drop, Step
from modelwright.data.language.detect import Detect, detector

UNKNOWN = "unknown"
"""The language of a text in which there are too few letters to tell."""


class Config(config.Config):
    """Which languages stay."""

    keep: tuple[str, ...] = ("en",)
    """Codes as the model gives them: ISO 639-1 where there is one, else 639-3. Empty keeps all, and "unknown"
    those of which nothing can be told."""
    min_score: float | None = Field(default=0.65, ge=0, le=1)
    """Probability that the model must give the language. `null` takes its best guess."""
    min_letters: int = Field(default=10, ge=1)
    """A text with fewer letters is "unknown"."""
    max_characters: int | None = Field(default=10_000, ge=1)
    """How much of the text is looked at, from its beginning."""


def step(config: Config) -> Step:
    """The Step."""
    detect = detector()

    def identify(documents: Iterator[Document], drop: Drop) -> Iterator[Document]:
        for document in documents:
            language, score = identify_text(document.text, config, detect)
            meta = {**document.meta, "language": language, "language_score": round(score, 4)}
            document = replace(document, meta=meta)
            if config.keep and language not in config.keep:
                drop(document, Reason("language: other", language, f"{', '.join(config.keep)} kept"))
            elif config.min_score is not None and language != UNKNOWN and score < config.min_score:
                drop(document, Reason("language: score", score, f"at least {config.min_score:g} asked"))
            else:
                yield document

    return identify


def identify_text(text: str, config: Config, detect: Detect) -> tuple[str, float]:
    """(language code, probability); ("unknown", 0.0) where there is too little to tell."""
    seen = text[: config.max_characters]
    letters = filter(str.isalpha, seen)
    if next(islice(letters, config.min_letters - 1, None), None) is None:
        return UNKNOWN, 0.0
    return detect(seen)
