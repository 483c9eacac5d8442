"""What went, and why: one row a document in Parquet, counts and a few samples of every rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from modelwright.base.schema import Document, Reason
from modelwright.data.pipeline.forgotten import Forgotten, earlier_of
from modelwright.data.pipeline.samples import SAMPLES, Cover, Group, place_of
from modelwright.data.rewrite import former_ids

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("whole", pa.string()),
        pa.field("former", pa.list_(pa.string())),
        pa.field("source", pa.string(), nullable=False),
        pa.field("place", pa.string(), nullable=False),
        pa.field("step", pa.string(), nullable=False),
        pa.field("rule", pa.string(), nullable=False),
        pa.field("value", pa.float64()),
        pa.field("says", pa.string(), nullable=False),
        pa.field("earlier", pa.string()),
        pa.field("text", pa.string()),
    ]
)
"""`whole` is the id of the document that it was cut from; `former` its ids before steps changed its text;
`place` file and line; `value` what was measured where that is a number; `says` the reason in words; `earlier`
the id of the document that it repeats, or its first letters."""

_GROUP_ROWS, _GROUP_CHARACTERS = 4096, 1 << 23

Key = TypeVar("Key")


class Dropped:
    """Collects what goes. Made by `write_dropped`."""

    def __init__(self, keep: str, writer: pq.ParquetWriter, forget: Iterable[str] = ()) -> None:
        self._keep, self._writer, self._forgotten = keep, writer, Forgotten(forget)
        self._rows: list[dict[str, Any]] = []
        self._characters = 0
        self.keeps = 0 if keep == "nothing" else SAMPLES
        """How many samples of a kind."""
        self.counts: Counter[str] = Counter()
        self._rules: dict[tuple[str, str], Group] = {}
        self._unread: dict[str, Group] = {}

    def __call__(self, step: str, document: Document, reason: Reason) -> None:
        """A document goes. Of what is forgotten, and of what repeats it, no text is kept."""
        if self._forgotten.hides(document, reason):
            self._group(self._rules, (step, reason.rule)).add(document, reason, shows=False)
            self._count(step, document, reason, "")
            return
        self._group(self._rules, (step, reason.rule)).add(document, reason)
        self._count(step, document, reason, document.text)

    def unread(self, where: str, reason: Reason) -> None:
        """Input that could not be read, or was passed over."""
        self._group(self._unread, reason.rule).add_unread(where, reason)
        self._count("read", None, reason, None, where)

    def rules(self, cover: Cover = str) -> list[dict[str, Any]]:
        """Step, rule, counts and a few samples of the documents that went; samples only where something may
        be kept of them, covered by `cover`."""
        return [
            {"step": step, "rule": rule, **group.as_json(cover)}
            for (step, rule), group in sorted(self._rules.items())
        ]

    def not_read(self) -> list[dict[str, Any]]:
        """The same of input that never became a document, by kind."""
        return [{"rule": rule, **group.as_json()} for rule, group in sorted(self._unread.items())]

    def flush(self) -> None:
        """Write what waits."""
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=SCHEMA))
        self._rows, self._characters = [], 0

    def _count(
        self, step: str, document: Document | None, reason: Reason, text: str | None, where: str = ""
    ) -> None:
        self.counts[reason.rule] += 1
        if self._keep == "nothing":
            return
        self._rows.append(
            {
                "id": document and document.id,
                "whole": document and document.meta.get("whole"),
                "former": former_ids(document.meta) if document else [],
                "source": document.source if document else "",
                "place": place_of(document) if document else where,
                "step": step,
                "rule": reason.rule,
                "value": reason.value if isinstance(reason.value, int | float) else None,
                "says": str(reason),
                "earlier": earlier_of(reason),
                "text": text if self._keep == "texts" else None,
            }
        )
        self._characters += len(text or "")
        if len(self._rows) >= _GROUP_ROWS or self._characters >= _GROUP_CHARACTERS:
            self.flush()

    def _group(self, groups: dict[Key, Group], key: Key) -> Group:
        return groups.setdefault(key, Group(self.keeps))


@contextmanager
def write_dropped(path: Path, keep: str, forget: Iterable[str] = ()) -> Generator[Dropped]:
    """Collects what goes into the Parquet file `path`; `forget` names what leaves no text behind."""
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        dropped = Dropped(keep, writer, forget)
        yield dropped
        dropped.flush()
