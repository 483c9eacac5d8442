"""Arrow IPC: files (.arrow, .feather) and streams (what Hugging Face datasets write as .arrow)."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from modelwright.data.readers.columns import BROKEN, batch_rows, first_line, text_columns
from modelwright.data.readers.faults import Faults
from modelwright.data.readers.part import Part
from modelwright.data.readers.rows import Row
from modelwright.data.readers.storage import open_raw

_FILE_MAGIC = b"ARROW1"
_MAX_ROWS = 512  # turned into Python objects at a time


def rows(part: Part, faults: Faults) -> Iterator[Row]:
    """The rows of a part's record batches. A batch that is garbled costs itself in a file; in a stream,
    what stands behind it cannot be found."""
    try:
        with open_raw(part.path) as raw:
            if raw.read(len(_FILE_MAGIC)) == _FILE_MAGIC:
                yield from _of_file(pa.ipc.open_file(raw), part, faults)
            else:
                raw.seek(0)
                yield from _of_stream(pa.ipc.open_stream(raw), part, faults)
    except BROKEN as error:
        problem = f"not a whole Arrow file ({part.file_bytes:,} bytes): {first_line(error)}"
        faults("file truncated or garbled", part.where, problem)


def _of_file(file: pa.ipc.RecordBatchFileReader, part: Part, faults: Faults) -> Iterator[Row]:
    row = part.first
    stop = file.num_record_batches if part.stop is None else part.stop
    for index in range(part.start, min(stop, file.num_record_batches)):
        try:
            batch = file.get_batch(index)
        except BROKEN as error:
            where = f"{part.where}, record batch {index + 1}, after row {row}"
            faults("file truncated or garbled", where, f"cannot be read: {first_line(error)}")
            continue
        yield from _rows(batch, part, row, faults)
        row += batch.num_rows


def _of_stream(stream: pa.ipc.RecordBatchStreamReader, part: Part, faults: Faults) -> Iterator[Row]:
    row = 0
    for batch in stream:
        yield from _rows(batch, part, row, faults)
        row += batch.num_rows


def _rows(batch: pa.RecordBatch, part: Part, first_row: int, faults: Faults) -> Iterator[Row]:
    batch = batch.select(text_columns(batch.schema))
    for start in range(0, batch.num_rows, _MAX_ROWS):
        yield from batch_rows(batch.slice(start, _MAX_ROWS), part, first_row + start, faults)


def pieces(path: str) -> list[tuple[int, int]]:
    """(bytes, rows) of each record batch: an equal share of the file each. A stream is one piece."""
    with open_raw(path) as raw:
        if raw.read(len(_FILE_MAGIC)) != _FILE_MAGIC:
            return [(raw.seek(0, 2), 0)]
        size = raw.seek(0, 2)
        file = pa.ipc.open_file(raw, options=pa.ipc.IpcReadOptions(included_fields=[0]))
        count = file.num_record_batches
        return [(size // count, file.get_batch(index).num_rows) for index in range(count)]
