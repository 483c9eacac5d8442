"""Parquet: a row group is the smallest part; what is garbled costs its row group."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow.parquet as pq

from modelwright.data.readers.columns import BROKEN, batch_rows, first_line, text_columns
from modelwright.data.readers.faults import Faults
from modelwright.data.readers.part import Part
from modelwright.data.readers.rows import Row
from modelwright.data.readers.storage import open_raw

_BATCH_BYTES = 1 << 23
_MAX_BATCH_ROWS = 512  # what the metadata says of sizes may be wrong


def rows(part: Part, faults: Faults) -> Iterator[Row]:
    """The rows of a part's row groups."""
    try:
        with open_raw(part.path) as raw, pq.ParquetFile(raw) as file:
            yield from _groups(file, part, faults)
    except BROKEN as error:
        problem = f"not a whole Parquet file ({part.file_bytes:,} bytes): {first_line(error)}"
        faults("file truncated or garbled", part.where, problem)


def _groups(file: pq.ParquetFile, part: Part, faults: Faults) -> Iterator[Row]:
    columns = text_columns(file.schema_arrow)
    first_row = part.first
    stop = file.num_row_groups if part.stop is None else min(part.stop, file.num_row_groups)
    for group in range(part.start, stop):
        about = file.metadata.row_group(group)
        size = _BATCH_BYTES // max(1, about.total_byte_size // max(1, about.num_rows))
        row = first_row
        try:
            for batch in file.iter_batches(min(max(size, 1), _MAX_BATCH_ROWS), [group], columns):
                yield from batch_rows(batch, part, row, faults)
                row += batch.num_rows
        except BROKEN as error:
            where = f"{part.where}, row group {group + 1}, after row {row}"
            faults("file truncated or garbled", where, f"cannot be read: {first_line(error)}")
        first_row += about.num_rows


def pieces(path: str) -> list[tuple[int, int]]:
    """(bytes, rows) of each row group."""
    with open_raw(path) as raw, pq.ParquetFile(raw) as file:
        groups = (file.metadata.row_group(index) for index in range(file.num_row_groups))
        return [
            (sum(group.column(c).total_compressed_size for c in range(group.num_columns)), group.num_rows)
            for group in groups
        ]
