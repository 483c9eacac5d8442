"""Samples of documents for the corpus report: those of the smallest hash, whatever the order was.

Which texts are shown thus depends on the corpus alone, neither on the number of workers nor on who reports.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from modelwright.base.schema import Document, Reason
from modelwright.data.split import position

SAMPLES, CHARACTERS = 3, 1200
"""Of each kind. The text is longer than what a report shows, so that a finding at the end of what is shown
can be masked whole."""


@dataclass(frozen=True, slots=True, order=True)
class Sample:
    """How a document begins, where it stood, and what was said of it."""

    position: float
    """Even over documents: the smallest are shown."""
    id: str
    source: str
    place: str
    says: str = ""
    text: str = ""
    whole: str = ""
    """Id of the document that it was cut from."""

    @property
    def names(self) -> str:
        """What tells it from others: its text's id, or its place where it never became a document."""
        return self.id or self.place

    def as_json(self) -> dict[str, Any]:
        """What `json.dumps` takes."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(slots=True)
class Group:
    """Documents of one kind: how many, how large, and a few of them."""

    keeps: int = SAMPLES
    documents: int = 0
    bytes: int = 0
    samples: list[Sample] = field(default_factory=list)
    """The smallest first; a text that comes again and again is one of them at most."""

    def add(self, document: Document, reason: Reason | None = None) -> None:
        """One more document."""
        self.documents += 1
        self.bytes += len(document.text.encode())
        place = position(document.id, "sample")
        if self.keeps and (len(self.samples) < self.keeps or place <= self.samples[-1].position):
            self.put(_sample(place, document, reason))

    def add_unread(self, where: str, reason: Reason) -> None:
        """One more piece of input that never became a document."""
        self.documents += 1
        self.put(Sample(position(where, "sample"), "", "", where, str(reason)))

    def put(self, sample: Sample) -> None:
        """Keep the sample if it is among the smallest."""
        same = [each for each in self.samples if each.names == sample.names]
        others = [each for each in self.samples if each.names != sample.names]
        self.samples = sorted([*others, min([sample, *same])])[: self.keeps]

    def as_json(self) -> dict[str, Any]:
        """What `json.dumps` takes."""
        samples = [sample.as_json() for sample in self.samples]
        return {"documents": self.documents, "bytes": self.bytes, "samples": samples}

    @classmethod
    def total(cls, parts: Iterable[Mapping[str, Any]], keeps: int = SAMPLES) -> Group:
        """The sum of groups in JSON, "samples" of the whole."""
        total = cls(keeps)
        for part in parts:
            total.documents += part["documents"]
            total.bytes += part["bytes"]
            for sample in part["samples"]:
                total.put(Sample(**sample))
        return total


def _sample(place: float, document: Document, reason: Reason | None) -> Sample:
    return Sample(
        place,
        document.id,
        document.source,
        place_of(document),
        str(reason) if reason else "",
        document.text[:CHARACTERS],
        str(document.meta.get("whole", "")),
    )


def place_of(document: Document) -> str:
    """File and place within it, as far as the reader told."""
    where = [str(document.meta["file"])] if "file" in document.meta else []
    where += [
        f"{kind} {document.meta[kind]}"
        for kind in ("line", "row", "record", "page", "piece")
        if kind in document.meta
    ]
    return ", ".join(where)
