"""Files to Rows, and what reading any format has in common."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

from modelwright.data.readers.faults import Faults
from modelwright.data.readers.files import File
from modelwright.data.readers.part import Part, whole
from modelwright.data.readers.rows import Row
from modelwright.data.readers.source import Format
from modelwright.data.readers.storage import readable, stat


def module_of(format: Format) -> Any:
    """The module that reads a format."""
    return import_module(f"modelwright.data.readers.{format}")


def read_rows(file: File, faults: Faults) -> Iterator[Row]:
    """The rows of one file of a format whose records have fields."""
    part = part_of(file, faults)
    if part:
        yield from module_of(part.format).rows(part, faults)
        check_unchanged(part, faults)


def part_of(file: File, faults: Faults) -> Part | None:
    """The whole file, or None after a fault: it may have gone since it was listed."""
    try:
        return whole(file)
    except OSError as error:
        faults("file gone", readable(file.path), f"cannot be opened: {error}")
        return None


def check_unchanged(part: Part, faults: Faults) -> None:
    """A file that changed while it was read is a fault: what was read may be of two files."""
    try:
        now = stat(part.path)
    except OSError:
        now = None
    if now != part.stat:
        what = "gone" if now is None else f"{now.size:,} bytes now"
        problem = f"changed while it was read ({part.file_bytes:,} bytes before, {what}). Read it again"
        faults("file changed", part.where, problem)
