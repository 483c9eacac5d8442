"""Rows of JSON Lines and Parquet files, each with its place, so that an error can name it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from modelwright.base.schema import Json
from modelwright.data.faults import Faults
from modelwright.data.files import BROKEN_STREAM, Source, format_of, name_of, open_bytes

MAX_LINE_BYTES = 1 << 28
_BATCH_BYTES = 1 << 23
_MAX_META_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class Row:
    """One record and where it stands."""

    fields: dict[str, Json]
    file: Path
    place: str
    """"line 12" or "row 12", counted from 1."""

    @property
    def where(self) -> str:
        """File and place."""
        return f"{name_of(self.file)}, {self.place}"


def read_rows(path: Path, faults: Faults) -> Iterator[Row]:
    """The records of a .jsonl (.gz, .zst) or .parquet file."""
    return _parquet(path, faults) if format_of(path) == "parquet" else _json_lines(path, faults)


def _json_lines(path: Path, faults: Faults) -> Iterator[Row]:
    number = 0
    try:
        with open_bytes(path) as file:
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                place = f"line {number}"
                if len(line) > MAX_LINE_BYTES:
                    faults(
                        "line too long", f"{name_of(path)}, {place}", f"longer than {MAX_LINE_BYTES:,} bytes"
                    )
                    return
                fields = _parse(line, f"{name_of(path)}, {place}", faults)
                if fields is not None:
                    yield Row(fields, path, place)
    except BROKEN_STREAM as error:
        size = path.stat().st_size if path.exists() else 0
        problem = f"truncated or garbled after {number} lines ({size:,} bytes on disk): {error}"
        faults("file truncated or garbled", name_of(path), problem)


def _parse(line: bytes, where: str, faults: Faults) -> dict[str, Json] | None:
    if not line.strip():
        return None
    try:
        value: Json = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        faults("not UTF-8", where, f"not valid UTF-8 at byte {error.start} of the line. Convert it to UTF-8")
    except RecursionError:
        faults("not JSON", where, "JSON nested too deeply")
    except ValueError as error:
        shown = line[:60].decode("utf-8", errors="replace").rstrip()
        faults("not JSON", where, f"not valid JSON ({error}), received '{shown}'")
    else:
        if isinstance(value, dict):
            return value
        faults("not an object", where, f"a JSON {type(value).__name__}, expected an object with fields")
    return None


def _parquet(path: Path, faults: Faults) -> Iterator[Row]:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        size = path.stat().st_size if path.exists() else 0
        problem = f"not a whole Parquet file ({size:,} bytes): {_first_line(error)}"
        faults("file truncated or garbled", name_of(path), problem)
        return
    with file:
        columns = [field.name for field in file.schema_arrow if not _is_binary(field.type)]
        first_row = 0
        for group in range(file.num_row_groups):
            about = file.metadata.row_group(group)
            size = _BATCH_BYTES // max(1, about.total_byte_size // max(1, about.num_rows))
            batches = file.iter_batches(min(max(size, 1), 4096), row_groups=[group], columns=columns)
            row = first_row
            try:
                for batch in batches:
                    yield from _batch_rows(batch, path, row, faults)
                    row += batch.num_rows
            except (pa.ArrowException, OSError) as error:
                where = f"{name_of(path)}, row group {group + 1}, after row {row}"
                faults("file truncated or garbled", where, f"cannot be read: {_first_line(error)}")
            first_row += about.num_rows


def _batch_rows(batch: pa.RecordBatch, path: Path, first_row: int, faults: Faults) -> Iterator[Row]:
    for index in range(batch.num_rows):
        place = f"row {first_row + index + 1}"
        try:
            fields: dict[str, Any] = batch.slice(index, 1).to_pylist()[0]
        except UnicodeDecodeError:
            faults("not UTF-8", f"{name_of(path)}, {place}", "holds text that is not valid UTF-8")
            continue
        yield Row(fields, path, place)


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def known(row: Row, source: Source) -> Source:
    """The source's facts, and the row's own where the source says nothing."""
    licence = row.fields.get("licence") or row.fields.get("license")
    jurisdiction, personal = row.fields.get("jurisdiction"), row.fields.get("personal_data")
    own: dict[str, Json] = {}
    if source.licence == "unknown" and isinstance(licence, str) and is_short(licence):
        own["licence"] = licence
    if source.jurisdiction == "unknown" and isinstance(jurisdiction, str) and is_short(jurisdiction):
        own["jurisdiction"] = jurisdiction
    if source.personal_data is None and isinstance(personal, bool):
        own["personal_data"] = personal
    return source.model_copy(update=own) if own else source


def is_short(text: str) -> bool:
    """Whether a field is a title or a name, and not a text."""
    return 0 < len(text) <= _MAX_META_CHARACTERS and not any(
        "\ud800" <= letter <= "\udfff" for letter in text
    )
