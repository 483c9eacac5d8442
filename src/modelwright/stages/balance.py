"""Which documents a vocabulary is learned from: so much of each language, or of each source.

The choice is made by hash: it depends on the texts and these settings, not on their order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Literal, Self

from pydantic import Field, model_validator

from modelwright.base import config
from modelwright.base.schema import Document
from modelwright.data.split import position


class Balance(config.Config):
    """How much of each group the learning sample holds. By default every document counts alike."""

    by: Literal["language", "source"] = "language"
    """What makes a group: the language that `prepare` found, or the source."""
    shares: dict[str, float] = {}
    """Group -> its share of the sample, 0 to 1; sources by pattern ("*/novels/*").
    The others share the rest."""
    temperature: float = Field(default=1.0, ge=1.0)
    """The others share by bytes ** (1 / temperature): 1 leaves them as they are, more evens them out
    (XLM-R and mT5 take 3.3, arXiv 1911.02116)."""
    most_repeats: float = Field(default=4.0, ge=1.0)
    """A small group is counted this often at most, however large its share."""

    @model_validator(mode="after")
    def _shares_add_up(self) -> Self:
        if any(share < 0 for share in self.shares.values()) or sum(self.shares.values()) > 1 + 1e-9:
            raise ValueError(f"shares are parts of 1, expected at most 1 in all, not {self.shares}")
        return self

    @property
    def is_set(self) -> bool:
        """Whether it changes anything."""
        return bool(self.shares) or self.temperature > 1

    def group(self, document: Document) -> str:
        """The group of a document."""
        if self.by == "language":
            return str(document.meta.get("language", "unknown"))
        named = (pattern for pattern in self.shares if fnmatchcase(document.source, pattern))
        return next(named, document.source)

    def rates(self, sizes: Mapping[str, int], total: int) -> dict[str, float]:
        """Group -> how often each of its documents is counted, for a sample of `total` bytes in all.

        `sizes` has the bytes of each group. A rate below 1 is a share of the documents."""
        named = {group: share for group, share in self.shares.items() if sizes.get(group)}
        others = {g: s ** (1 / self.temperature) for g, s in sizes.items() if s and g not in self.shares}
        rest = 1.0 - sum(self.shares.values())
        whole = sum(others.values())
        wanted = named | {group: rest * part / whole for group, part in others.items()}
        scale = sum(wanted.values()) or 1.0  # less than 1 where a named group has no text
        return {g: min(self.most_repeats, share / scale * total / sizes[g]) for g, share in wanted.items()}


def count_groups(documents: Iterable[Document], balance: Balance) -> dict[str, int]:
    """Group -> UTF-8 bytes of its texts."""
    sizes: dict[str, int] = {}
    for document in documents:
        group = balance.group(document)
        sizes[group] = sizes.get(group, 0) + len(document.text.encode())
    return sizes


def sample(documents: Iterable[Document], rates: Mapping[str, float], balance: Balance) -> Iterator[str]:
    """Each text as often as its group's rate says; the fraction is decided by its hash."""
    for document in documents:
        whole, part = divmod(rates.get(balance.group(document), 0.0), 1.0)
        for _ in range(int(whole) + (position(document.id, "vocabulary") < part)):
            yield document.text
