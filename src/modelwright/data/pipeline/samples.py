"""Samples of documents for the corpus report: those of the smallest hash, whatever the order was.

Which texts are shown thus depends on the corpus alone, neither on the number of workers nor on who reports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from modelwright.base.schema import Document, Reason
from modelwright.data.privacy.finding import DEFAULT_KINDS, Kind
from modelwright.data.privacy.mask import mask
from modelwright.data.split import position

SAMPLES, CHARACTERS = 3, 400
"""Of each kind, and of each text."""
_HELD = 4 * CHARACTERS
"""More is held, so that personal data at the end of what is shown is masked whole."""

Cover = Callable[[str], str]


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

    def as_json(self, cover: Cover) -> dict[str, Any]:
        """What `json.dumps` takes, the text covered and cut to what is shown."""
        return asdict(self) | {"text": cover(self.text)[:CHARACTERS]}


@dataclass(slots=True)
class Group:
    """Documents of one kind: how many, how large, and a few of them."""

    keeps: int = SAMPLES
    documents: int = 0
    bytes: int = 0
    samples: list[Sample] = field(default_factory=list)
    """The smallest first; a text that comes again and again is one of them at most."""

    def add(self, document: Document, reason: Reason | None = None, shows: bool = True) -> None:
        """One more document; its sample has no text unless it `shows`."""
        self.documents += 1
        self.bytes += len(document.text.encode())
        place = position(document.id, "sample")
        if self.keeps and (len(self.samples) < self.keeps or place <= self.samples[-1].position):
            self.put(_sample(place, document, reason, shows))

    def add_unread(self, where: str, reason: Reason) -> None:
        """One more piece of input that never became a document."""
        self.documents += 1
        self.put(Sample(position(where, "sample"), "", "", where, str(reason)))

    def put(self, sample: Sample) -> None:
        """Keep the sample if it is among the smallest."""
        same = [each for each in self.samples if each.names == sample.names]
        others = [each for each in self.samples if each.names != sample.names]
        self.samples = sorted([*others, min([sample, *same])])[: self.keeps]

    def as_json(self, cover: Cover = str) -> dict[str, Any]:
        """What `json.dumps` takes; `cover` masks what must not be shown."""
        samples = [sample.as_json(cover) for sample in self.samples]
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


def _sample(place: float, document: Document, reason: Reason | None, shows: bool) -> Sample:
    return Sample(
        place,
        document.id,
        document.source,
        place_of(document),
        str(reason) if reason else "",
        document.text[:_HELD] if shows else "",
        str(document.meta.get("whole", "")),
    )


def cover_of(filters: Sequence[Mapping[str, Any]]) -> Cover:
    """Masks personal data where the filters look for it: what went before they came to it has its own."""
    kinds: list[Kind] = []
    for settings in filters:
        if settings.get("name") == "privacy":
            kinds += settings.get("kinds", DEFAULT_KINDS)
    return (lambda text: mask(text, kinds)[0]) if kinds else str


def place_of(document: Document) -> str:
    """File and place within it, as far as the reader told."""
    where = [str(document.meta["file"])] if "file" in document.meta else []
    where += [
        f"{kind} {document.meta[kind]}"
        for kind in ("line", "row", "record", "page", "piece")
        if kind in document.meta
    ]
    return ", ".join(where)
