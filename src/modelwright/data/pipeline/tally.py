"""Counts of a stream of documents that add up over units: what the report and the metrics are made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from modelwright.base.provenance import personal_data_flag
from modelwright.base.schema import Document


@dataclass(slots=True)
class Tally:
    """What a stream came to."""

    documents: int = 0
    bytes: int = 0
    lengths: Counter[str] = field(default_factory=Counter)
    """Documents by the power of two of their characters: "10" counts 1024 to 2047."""
    languages: Counter[str] = field(default_factory=Counter)
    """Bytes by language, where it was looked at."""
    sources: Counter[str] = field(default_factory=Counter)
    """Bytes by source."""
    known: Counter[str] = field(default_factory=Counter)
    """Documents by source, licence, jurisdiction and personal data flag, joined by tabs."""
    masked: Counter[str] = field(default_factory=Counter)
    """Masked findings by kind."""

    def add(self, document: Document) -> int:
        """One more document; its size in bytes."""
        size = len(document.text.encode())
        self.documents += 1
        self.bytes += size
        self.lengths[str(max(0, len(document.text).bit_length() - 1))] += 1
        self.languages[str(document.meta.get("language", "not looked at"))] += size
        self.sources[document.source] += size
        flag = personal_data_flag(document.personal_data, "masked" in document.meta)
        self.known["\t".join((document.source, document.licence, document.jurisdiction, flag))] += 1
        masked = document.meta.get("masked")
        if isinstance(masked, dict):
            self.masked.update({str(kind): int(count) for kind, count in masked.items()})
        return size

    def as_json(self) -> dict[str, Any]:
        """What `json.dumps` takes."""
        return {
            name: dict(sorted(value.items())) if isinstance(value, Counter) else value
            for name in self.__slots__
            for value in [getattr(self, name)]
        }

    @classmethod
    def total(cls, parts: Iterable[dict[str, Any]]) -> Tally:
        """The sum of tallies in JSON."""
        total = cls()
        for part in parts:
            total.documents += part["documents"]
            total.bytes += part["bytes"]
            for name in ("lengths", "languages", "sources", "known", "masked"):
                getattr(total, name).update(part[name])
        return total

    def provenance_rows(self) -> Iterable[tuple[tuple[str, str, str, str], int]]:
        """((source, licence, jurisdiction, flag), documents)."""
        for joined, count in sorted(self.known.items()):
            source, licence, jurisdiction, flag = joined.rsplit("\t", 3)
            yield (source, licence, jurisdiction, flag), count
