"""What went, and why: one row a document in Parquet, counts and a few samples of every rule."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from modelwright.base.schema import Document, Reason
from modelwright.data.split import position

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("source", pa.string(), nullable=False),
        pa.field("place", pa.string(), nullable=False),
        pa.field("step", pa.string(), nullable=False),
        pa.field("rule", pa.string(), nullable=False),
        pa.field("value", pa.float64()),
        pa.field("says", pa.string(), nullable=False),
        pa.field("text", pa.string()),
    ]
)
"""`place` is file and line; `value` what was measured where that is a number; `says` the reason in words."""

SAMPLES, SAMPLE_CHARACTERS = 3, 400
_GROUP_ROWS = 4096


class Dropped:
    """Collects what goes. Made by `write_dropped`."""

    def __init__(self, keep: str, writer: pq.ParquetWriter) -> None:
        self._keep, self._writer = keep, writer
        self._rows: list[dict[str, Any]] = []
        self.counts: Counter[str] = Counter()
        self._samples: dict[str, list[tuple[float, str, str]]] = {}

    def __call__(self, step: str, document: Document, reason: Reason) -> None:
        """A document goes."""
        self._sample(reason.rule, document)
        place = place_of(document)
        self._count(step, document.id, document.source, place, reason, document.text)

    def unread(self, where: str, reason: Reason) -> None:
        """Input that could not be read, or was passed over."""
        self._count("read", None, "", where, reason, None)

    def samples(self) -> dict[str, list[dict[str, str]]]:
        """Rule -> a few of its documents: those of the smallest hash, whatever the order was."""
        return {
            rule: [{"id": identity, "text": text} for _, identity, text in sorted(found, reverse=True)]
            for rule, found in sorted(self._samples.items())
        }

    def flush(self) -> None:
        """Write what waits."""
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=SCHEMA))
        self._rows = []

    def _count(
        self, step: str, identity: str | None, source: str, place: str, reason: Reason, text: str | None
    ) -> None:
        self.counts[reason.rule] += 1
        if self._keep == "nothing":
            return
        self._rows.append(
            {
                "id": identity,
                "source": source,
                "place": place,
                "step": step,
                "rule": reason.rule,
                "value": reason.value if isinstance(reason.value, int | float) else None,
                "says": str(reason),
                "text": text if self._keep == "texts" else None,
            }
        )
        if len(self._rows) >= _GROUP_ROWS:
            self.flush()

    def _sample(self, rule: str, document: Document) -> None:
        heap = self._samples.setdefault(rule, [])
        item = (-position(document.id, "sample"), document.id, document.text[:SAMPLE_CHARACTERS])
        if len(heap) < SAMPLES:
            heapq.heappush(heap, item)
        elif item > heap[0]:
            heapq.heapreplace(heap, item)


@contextmanager
def write_dropped(path: Path, keep: str) -> Generator[Dropped]:
    """Collects what goes into the Parquet file `path`."""
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        dropped = Dropped(keep, writer)
        yield dropped
        dropped.flush()


def place_of(document: Document) -> str:
    """File and place within it, as far as the reader told."""
    where = [str(document.meta["file"])] if "file" in document.meta else []
    where += [
        f"{kind} {document.meta[kind]}"
        for kind in ("line", "row", "record", "page", "piece")
        if kind in document.meta
    ]
    return ", ".join(where)
