"""Files to Documents. A format is one file beside this one, an entry in READERS or ROWS, and its suffixes
in `source.FORMATS`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from modelwright.base.schema import Document
from modelwright.data.readers import arrow, code, html, jsonl, parquet, pdf, tables, text, warc
from modelwright.data.readers.faults import Faults
from modelwright.data.readers.files import File, find_files
from modelwright.data.readers.part import Part, whole
from modelwright.data.readers.rows import Row, row_documents
from modelwright.data.readers.source import Source
from modelwright.data.readers.storage import readable, stat

ROWS: dict[str, Callable[[Part, Faults], Iterator[Row]]] = {
    "jsonl": jsonl.rows,
    "csv": tables.rows,
    "tsv": tables.rows,
    "arrow": arrow.rows,
    "parquet": parquet.rows,
}
"""Formats of rows with fields."""


def _documents_of_rows(format: str, part: Part, source: Source, faults: Faults) -> Iterator[Document]:
    return row_documents(ROWS[format](part, faults), source, faults)


READERS: dict[str, Callable[[Part, Source, Faults], Iterator[Document]]] = {
    "text": text.read,
    "lines": text.read_lines,
    "html": html.read,
    "warc": warc.read,
    "pdf": pdf.read,
    "code": code.read,
    **{format: partial(_documents_of_rows, format) for format in ROWS},
}


def read(source: Source, faults: Faults) -> Iterator[Document]:
    """The documents of a source's files, file by file, sorted by name."""
    for file in find_files(source, faults):
        yield from read_file(file, source, faults)


def read_file(file: File, source: Source, faults: Faults) -> Iterator[Document]:
    """The documents of one file. Each names its file and its place there in `meta`."""
    part = part_of(file, faults)
    return read_part(part, source, faults) if part else iter(())


def read_rows(file: File, faults: Faults) -> Iterator[Row]:
    """The rows of one file of a format in ROWS."""
    part = part_of(file, faults)
    if part:
        yield from ROWS[part.format](part, faults)
        _check_unchanged(part, faults)


def read_part(part: Part, source: Source, faults: Faults) -> Iterator[Document]:
    """The documents of a part of a file. The parts in order give what the whole file gives."""
    yield from READERS[part.format](part, source, faults)
    _check_unchanged(part, faults)


def part_of(file: File, faults: Faults) -> Part | None:
    """The whole file, or None after a fault: it may have gone since it was listed."""
    try:
        return whole(file)
    except OSError as error:
        faults("file gone", readable(file.path), f"cannot be opened: {error}")
        return None


def _check_unchanged(part: Part, faults: Faults) -> None:
    try:
        now = stat(part.path)
    except OSError:
        now = None
    if now != part.stat:
        what = "gone" if now is None else f"{now.size:,} bytes now"
        problem = f"changed while it was read ({part.file_bytes:,} bytes before, {what}). Read it again"
        faults("file changed", part.where, problem)
