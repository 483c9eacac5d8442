"""Batches of columns, as Arrow and Parquet hold them, to rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from modelwright.data.readers.faults import Faults
from modelwright.data.readers.part import Part
from modelwright.data.readers.rows import Row

BROKEN = (pa.ArrowException, OSError, EOFError, MemoryError)
"""What Arrow raises for a file that is truncated or garbled: a length with a wrong bit asks for exabytes."""


def batch_rows(batch: pa.RecordBatch, part: Part, first_row: int, faults: Faults) -> Iterator[Row]:
    """The rows of a batch; `first_row` rows of the file stand before it."""
    try:
        batch.validate(full=True)
        together: list[dict[str, Any]] | None = batch.to_pylist()
    except (pa.ArrowException, UnicodeDecodeError):
        together = None  # one bad row must not cost its neighbours
    for index in range(batch.num_rows):
        number = first_row + index + 1
        if together is not None:
            yield Row(together[index], part, "row", number)
            continue
        try:
            alone = batch.slice(index, 1)
            alone.validate(full=True)  # else a garbled offset leads outside of the memory
            yield Row(alone.to_pylist()[0], part, "row", number)
        except (pa.ArrowException, UnicodeDecodeError) as error:
            where = f"{part.where}, row {number}"
            if "utf" in str(error).lower():
                faults("not UTF-8", where, "holds text that is not valid UTF-8")
            else:
                faults("row garbled", where, first_line(error))


def text_columns(schema: pa.Schema) -> list[str]:
    """All columns but those of bytes: they may be large, and hold no text."""
    return [field.name for field in schema if not _is_binary(field.type)]


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)


def first_line(error: Exception) -> str:
    """The first line of what a library says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
