"""Mask, mark or drop documents with personal data and secrets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from pydantic import Field, model_validator

from modelwright.base import config
from modelwright.base.schema import Document, Reason
from modelwright.base.seams import Drop, Step
from modelwright.data.privacy.find import find
from modelwright.data.privacy.finding import DEFAULT_KINDS, Kind
from modelwright.data.privacy.mask import Style, mask
from modelwright.data.rewrite import rewritten


class Config(config.Config):
    """What is looked for, and what is done with it."""

    kinds: tuple[Kind, ...] = DEFAULT_KINDS
    """"national_id" has to be asked for."""
    action: Literal["mask", "mark"] = "mask"
    """"mask" replaces each finding and counts them in meta["masked"], {} where there are none; "mark" leaves
    the text, counts in meta["personal_data"] and sets the document's `personal_data`."""
    style: Style = "tag"
    salt: str = ""
    """For the style "pseudonym"."""
    max_findings: int | None = Field(default=None, ge=0)
    """Documents with more are dropped: lists of addresses and dumps of keys."""

    @model_validator(mode="after")
    def _salted(self) -> Config:
        if self.style == "pseudonym" and not self.salt:
            raise ValueError("style 'pseudonym' needs a salt")
        return self


def _marked(document: Document, counts: Counter[str]) -> Document:
    meta = {**document.meta, "personal_data": dict(sorted(counts.items()))}
    return replace(document, personal_data=True, meta=meta)


def step(config: Config) -> Step:
    """The Step."""

    def masked(documents: Iterator[Document], drop: Drop) -> Iterator[Document]:
        for document in documents:
            text, counts = document.text, Counter(each.kind for each in find(document.text, config.kinds))
            if config.max_findings is not None and counts.total() > config.max_findings:
                kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
                drop(document, Reason("much personal data", counts.total(), kinds))
                continue
            if config.action == "mark":
                yield _marked(document, counts) if counts else document
            elif not counts:  # also says that it was looked for: a policy asks for that
                yield replace(document, meta={**document.meta, "masked": {}})
            else:
                text, all_counts = mask(text, config.kinds, config.style, config.salt)
                yield rewritten(document, text, {"masked": dict(sorted(all_counts.items()))})

    return masked
