"""Files to Documents. To add a format, add one file to this folder, named like the format, and its suffix
to `source.FORMATS`. The file holds `read(part, source, faults)`, which gives Documents, or, where records
have fields, `rows(part, faults)`, which gives Rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

from modelwright.base.schema import Document
from modelwright.data.readers.faults import Faults
from modelwright.data.readers.files import File, find_files
from modelwright.data.readers.part import Part, whole
from modelwright.data.readers.rows import Row, row_documents
from modelwright.data.readers.source import Format, Source
from modelwright.data.readers.storage import readable, stat


def module_of(format: Format) -> Any:
    """The module that reads a format."""
    return import_module(f"modelwright.data.readers.{format}")


def read(source: Source, faults: Faults) -> Iterator[Document]:
    """The documents of a source's files, file by file, sorted by name."""
    for file in find_files(source, faults):
        yield from read_file(file, source, faults)


def read_file(file: File, source: Source, faults: Faults) -> Iterator[Document]:
    """The documents of one file. Each names its file and its place there in `meta`."""
    part = part_of(file, faults)
    return read_part(part, source, faults) if part else iter(())


def read_rows(file: File, faults: Faults) -> Iterator[Row]:
    """The rows of one file of a format whose records have fields."""
    part = part_of(file, faults)
    if part:
        yield from module_of(part.format).rows(part, faults)
        _check_unchanged(part, faults)


def read_part(part: Part, source: Source, faults: Faults) -> Iterator[Document]:
    """The documents of a part of a file. The parts in order give what the whole file gives."""
    module = module_of(part.format)
    if hasattr(module, "rows"):
        yield from row_documents(module.rows(part, faults), source, faults)
    else:
        yield from module.read(part, source, faults)
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
