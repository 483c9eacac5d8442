"""Drop documents that a learned quality model scores low."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pydantic import Field, model_validator

from modelwright.base import config
from modelwright.base.schema import Document, Reason
from modelwright.base.seams import Drop, Step
from modelwright.data.quality.model import QualityModel


class Config(config.Config):
    """Which model, and where its line is drawn."""

    model: str
    """Path of a saved quality model."""
    min_score: float | None = Field(default=None, ge=0, le=1)
    """Documents below go."""
    keep_share: float | None = Field(default=None, gt=0, le=1)
    """Instead of a score: the share of ordinary text that stays, by the texts held out in learning."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Config:
        if self.min_score is not None and self.keep_share is not None:
            raise ValueError("give min_score or keep_share, not both; neither scores and keeps all")
        return self


def step(config: Config) -> Step:
    """The Step. Each document that stays has its score in meta["quality"]."""
    model = QualityModel.load(Path(config.model))
    least = config.min_score if config.min_score is not None else 0.0
    if config.keep_share is not None:
        least = model.threshold(config.keep_share)

    def scored(documents: Iterator[Document], drop: Drop) -> Iterator[Document]:
        for document in documents:
            score = model.score(document.text)
            if score < least:
                drop(document, Reason("low quality score", round(score, 4), f"at least {least:.4g} asked"))
            else:
                yield replace(document, meta={**document.meta, "quality": round(score, 4)})

    return scored
