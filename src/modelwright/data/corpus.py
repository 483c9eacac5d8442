"""Documents on disk: Parquet shards that any data tool opens, all that we know in columns."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from modelwright.base.errors import DamagedFile, UserError
from modelwright.base.files import atomic_directory
from modelwright.base.schema import Document

SCHEMA = pa.schema(
    [
        pa.field("text", pa.string(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("licence", pa.string(), nullable=False),
        pa.field("jurisdiction", pa.string(), nullable=False),
        pa.field("personal_data", pa.bool_()),
        pa.field("meta", pa.string(), nullable=False),
    ]
)
"""`meta` is JSON text; `personal_data` is null where nobody has looked."""

_GROUP_BYTES = 1 << 23
_GROUP_ROWS = 1 << 13


class CorpusWriter:
    """Writes documents in order; memory holds one row group. Made by `write_corpus`."""

    def __init__(self, folder: Path, shard_bytes: int) -> None:
        self._folder, self._shard_bytes = folder, shard_bytes
        self._rows: list[dict[str, Any]] = []
        self._waiting_bytes = self._shard_text_bytes = 0
        self._shards = 0
        self._file: pq.ParquetWriter | None = None
        self.num_documents = self.num_bytes = 0

    def add(self, document: Document) -> None:
        """Append a document."""
        size = len(document.text.encode())
        self._rows.append(
            {name: getattr(document, name) for name in SCHEMA.names[:-1]}
            | {"meta": json.dumps(dict(document.meta), ensure_ascii=False, sort_keys=True, default=str)}
        )
        self.num_documents += 1
        self.num_bytes += size
        self._waiting_bytes += size
        if self._waiting_bytes >= _GROUP_BYTES or len(self._rows) >= _GROUP_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what waits as a row group, and close the shard if it is full."""
        if self._file is None:
            path = self._folder / f"{self._shards:05d}.parquet"
            self._file = pq.ParquetWriter(path, SCHEMA, compression="zstd")
        if self._rows:
            self._file.write_table(pa.Table.from_pylist(self._rows, schema=SCHEMA))
        self._shard_text_bytes += self._waiting_bytes
        self._rows, self._waiting_bytes = [], 0
        if self._shard_text_bytes >= self._shard_bytes:
            self.close_shard()

    def close_shard(self) -> None:
        """Finish the file at hand."""
        if self._file is not None:
            self._file.close()
            self._file, self._shard_text_bytes = None, 0
            self._shards += 1

    def close(self) -> None:
        """Write the rest; a corpus without documents is one file without rows."""
        if self._rows or not self._shards:
            self.flush()
        self.close_shard()


@contextmanager
def write_corpus(folder: Path, shard_bytes: int = 1 << 28) -> Generator[CorpusWriter]:
    """A writer of `folder`, which appears when the block ends well. `shard_bytes` counts text."""
    with atomic_directory(folder) as temporary:
        writer = CorpusWriter(temporary, shard_bytes)
        try:
            yield writer
            writer.close()
        finally:
            writer.close_shard()


def read_corpus(folder: Path) -> Iterator[Document]:
    """The documents of a corpus folder, in the order in which they were written."""
    files = sorted(Path(folder).glob("*.parquet"))
    if not files:
        raise UserError(f"{folder} holds no Parquet files: it is no corpus. Run 'prepare' first.")
    for path in files:
        try:
            yield from _read_shard(path)
        except (pa.ArrowException, OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            size = path.stat().st_size if path.exists() else 0
            what = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DamagedFile(
                f"{path} ({size:,} bytes) cannot be read: {what}. Run 'prepare' again."
            ) from error


def _read_shard(path: Path) -> Iterator[Document]:
    with pq.ParquetFile(path) as file:
        if missing := set(SCHEMA.names) - set(file.schema_arrow.names):
            raise DamagedFile(
                f"{path} lacks the columns {', '.join(sorted(missing))}: it is no shard of a corpus"
            )
        for batch in file.iter_batches(256, columns=SCHEMA.names):
            for row in batch.to_pylist():
                yield Document(**(row | {"meta": json.loads(row["meta"])}))
