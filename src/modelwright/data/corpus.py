"""Documents on disk: Parquet shards that any data tool opens, all that we know in columns."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

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


class DocumentsFile:
    """Writes documents in order to one Parquet file; memory holds one row group. Use as a context."""

    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetWriter(path, SCHEMA, compression="zstd")
        self._rows: list[dict[str, Any]] = []
        self._waiting_bytes = 0
        self.num_documents = self.num_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._file.close()

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
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._file.write_table(pa.Table.from_pylist(self._rows, schema=SCHEMA))
        self._rows, self._waiting_bytes = [], 0


@contextmanager
def write_corpus(folder: Path) -> Generator[DocumentsFile]:
    """A writer of a corpus folder of one shard, which appears when the block ends well."""
    with atomic_directory(folder) as temporary, DocumentsFile(temporary / shard_name(0)) as file:
        yield file


def shard_name(number: int) -> str:
    """The file of a corpus that a unit's documents are in; names sort as numbers."""
    return f"{number:06d}.parquet"


def read_corpus(folder: Path) -> Iterator[Document]:
    """The documents of a corpus folder, in the order in which they were written."""
    files = sorted(Path(folder).glob("*.parquet"))
    if not files:
        raise UserError(f"{folder} holds no Parquet files: it is no corpus. Run 'prepare' first.")
    for path in files:
        try:
            yield from read_documents(path)
        except (pa.ArrowException, OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            size = path.stat().st_size if path.exists() else 0
            what = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DamagedFile(
                f"{path} ({size:,} bytes) cannot be read: {what}. Run 'prepare' again."
            ) from error


def read_documents(path: Path) -> Iterator[Document]:
    """The documents of one shard."""
    with pq.ParquetFile(path) as file:
        if missing := set(SCHEMA.names) - set(file.schema_arrow.names):
            raise DamagedFile(
                f"{path} lacks the columns {', '.join(sorted(missing))}: it is no shard of a corpus"
            )
        for batch in file.iter_batches(256, columns=SCHEMA.names):
            for row in batch.to_pylist():
                yield Document(**(row | {"meta": json.loads(row["meta"])}))
