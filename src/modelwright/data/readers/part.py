"""A part of a file: what one reader reads in one go."""

from __future__ import annotations

from dataclasses import dataclass

from modelwright.data.readers.files import File
from modelwright.data.readers.source import Format
from modelwright.data.readers.storage import Stat, readable, stat


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A file, or a piece of it; `dataclasses.asdict` of it is JSON.

    `start` and `stop` count bytes in formats of lines, row groups in Parquet, record batches in Arrow.
    """

    path: str
    """Where the file is opened."""
    file: str
    """Its path within the source's folder: `meta["file"]` of each document."""
    format: Format
    file_bytes: int
    """The whole file's size as stored, and its `mark`, when the part was planned."""
    mark: str
    start: int = 0
    stop: int | None = None
    """None: to the end."""
    first: int = 0
    """Lines or rows of the file before this part."""
    num_bytes: int
    """About how much is read, in bytes as stored."""

    @property
    def begins(self) -> bool:
        """Whether the file begins with this part: of a file's parts, one does."""
        return self.start == 0

    @property
    def where(self) -> str:
        """The file, for an error."""
        return readable(self.path)

    @property
    def stat(self) -> Stat:
        """What the file was when the part was planned."""
        return Stat(self.file_bytes, self.mark)


def whole(file: File) -> Part:
    """All of a file. Raises OSError where there is none."""
    found = stat(file.path)
    return Part(
        path=file.path,
        file=file.name,
        format=file.format,
        file_bytes=found.size,
        mark=found.mark,
        num_bytes=found.size,
    )
