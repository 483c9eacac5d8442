"""Input in pieces of bounded size, which do not depend on how many workers will read them.

A large file is split where its format allows; small files are gathered. A `Unit` is what one worker
reads at a time, and what is done anew when it failed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, BinaryIO

from modelwright.base.files import canonical_json, sha256_text
from modelwright.data.readers.columns import BROKEN
from modelwright.data.readers.faults import Faults
from modelwright.data.readers.files import File, find_files
from modelwright.data.readers.part import Part, whole
from modelwright.data.readers.records import module_of
from modelwright.data.readers.source import COMPRESSIONS, Source
from modelwright.data.readers.storage import open_raw, readable
from modelwright.data.readers.streams import wide_encoding

_PIECE = 1 << 20
_OF_LINES = ("jsonl", "lines")
_OF_BATCHES = ("parquet", "arrow")


@dataclass(frozen=True, slots=True)
class Unit:
    """Consecutive parts of one source."""

    source: int
    """Index of the source in the recipe's list."""
    parts: tuple[Part, ...]
    """None for the embedded corpus, which has no files."""
    id: str
    """Hex sha256 of the source's index and settings, and of path, size, mark and range of each part: it
    changes when what would be read changes."""

    @property
    def num_bytes(self) -> int:
        """About how much is read, in bytes as stored."""
        return sum(part.num_bytes for part in self.parts)

    def as_json(self) -> dict[str, Any]:
        """What `json.dumps` takes."""
        return asdict(self)

    @staticmethod
    def from_json(content: dict[str, Any]) -> Unit:
        """The inverse of `as_json`."""
        return Unit(content["source"], tuple(Part(**part) for part in content["parts"]), content["id"])


def units(sources: Sequence[Source], unit_bytes: int, faults: Faults) -> Iterator[Unit]:
    """All input in order, in units of about `unit_bytes` as stored. A file that cannot be split is in one
    unit whatever its size. A source with the embedded corpus is one unit without parts."""
    for index, source in enumerate(sources):
        if source.is_atlas:
            yield _unit(index, source, ())
            continue
        waiting: list[Part] = []
        size = 0
        for file in find_files(source, faults):
            for part in _parts_or_fault(file, unit_bytes, faults):
                if waiting and size + part.num_bytes > unit_bytes:
                    yield _unit(index, source, tuple(waiting))
                    waiting, size = [], 0
                waiting.append(part)
                size += part.num_bytes
        if waiting:
            yield _unit(index, source, tuple(waiting))


def _unit(index: int, source: Source, parts: tuple[Part, ...]) -> Unit:
    content = [index, source.model_dump(), [asdict(part) for part in parts]]
    return Unit(index, parts, sha256_text(readable(canonical_json(content))))


def _parts_or_fault(file: File, unit_bytes: int, faults: Faults) -> Iterator[Part]:
    try:
        yield from _parts(file, unit_bytes)
    except OSError as error:
        faults("file gone", readable(file.path), f"cannot be opened: {error}")


def parts(file: File, unit_bytes: int) -> list[Part]:
    """A file in parts of about `unit_bytes`, where its format allows. Raises OSError where it is gone."""
    return list(_parts(file, unit_bytes))


def _parts(file: File, unit_bytes: int) -> Iterator[Part]:
    """One after the other, since a large file takes long to look through."""
    all_of_it = whole(file)
    if all_of_it.num_bytes > unit_bytes:
        if file.format in _OF_LINES and not file.path.lower().endswith(COMPRESSIONS):
            yield from _parts_of_lines(all_of_it, unit_bytes)
            return
        if file.format in _OF_BATCHES:
            try:
                pieces = module_of(file.format).pieces(file.path)
            except BROKEN:
                pieces = []  # the reader will say what is wrong with it
            yield from _parts_of_batches(all_of_it, pieces, unit_bytes)
            return
    yield all_of_it


def _parts_of_lines(part: Part, unit_bytes: int) -> Iterator[Part]:
    with open_raw(part.path) as file:
        if wide_encoding(file.read(4)):
            yield part
            return
        file.seek(0)
        start = first = 0
        for stop, lines in _line_ends(file, unit_bytes):
            if stop < part.file_bytes:
                yield replace(part, start=start, stop=stop, first=first, num_bytes=stop - start)
                start, first = stop, lines
    yield replace(part, start=start, stop=None, first=first, num_bytes=part.file_bytes - start)


def _line_ends(file: BinaryIO, unit_bytes: int) -> Iterator[tuple[int, int]]:
    """(byte, lines before it) at the first end of a line behind every `unit_bytes`. Lines are counted on
    the way, so that each document can name its line; that reads the file once, at the disk's speed."""
    start = place = lines = 0
    while chunk := file.read(_PIECE):
        cursor = 0
        while (found := chunk.find(b"\n", max(cursor, start + unit_bytes - 1 - place))) >= 0:
            lines += chunk.count(b"\n", cursor, found + 1)
            cursor = found + 1
            start = place + cursor
            yield start, lines
        lines += chunk.count(b"\n", cursor)
        place += len(chunk)


def _parts_of_batches(part: Part, pieces: list[tuple[int, int]], unit_bytes: int) -> list[Part]:
    """`pieces`: (bytes, rows) of each row group or record batch."""
    made: list[Part] = []
    start = first = size = rows = 0
    for index, (piece_bytes, piece_rows) in enumerate(pieces):
        if index > start and size + piece_bytes > unit_bytes:
            made.append(replace(part, start=start, stop=index, first=first, num_bytes=size))
            start, first, size = index, rows, 0
        size += piece_bytes
        rows += piece_rows
    return [*made, replace(part, start=start, stop=None, first=first, num_bytes=size)]
