"""Which files a source names, and their bytes with the compression taken off."""

from __future__ import annotations

import glob
import gzip
import io
import os
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import IO, Any, BinaryIO, cast

import zstandard
from pydantic import model_validator

from modelwright.base.config import Config
from modelwright.base.errors import UserError, closest

COMPRESSIONS = (".gz", ".zst")
FORMATS = {
    ".txt": "text",
    ".md": "text",
    ".html": "html",
    ".htm": "html",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
"""Suffix -> format. All but Parquet may carry .gz or .zst behind it."""

BROKEN_STREAM = (EOFError, OSError, zlib.error, zstandard.ZstdError)
"""What reading a truncated or garbled file raises."""

MANY = 1000
"""Names beside a missing one that are looked at."""

_COMPRESSED_PIECE = 1 << 13  # small, so that a decompression bomb swells to 256 MiB at the very worst
_MAX_WINDOW_BYTES = 1 << 27


class Source(Config):
    """Where documents come from, and what is known about all of them. In a recipe, a bare string is
    short for `{path: ...}`."""

    path: str
    """"atlas" (the embedded corpus), or a file, a folder (searched to the bottom), or a glob."""
    licence: str = "unknown"
    """SPDX identifier where there is one."""
    jurisdiction: str = "unknown"
    """ISO 3166-1 alpha-2 code."""
    personal_data: bool | None = None
    """Whether the texts hold personal data; leave it out when nobody has looked."""
    text_field: str = "text"
    """The field or column with the text in JSON Lines and Parquet."""
    html: bool = False
    """The text field holds HTML, of which the main text is wanted."""

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @property
    def is_atlas(self) -> bool:
        """Whether it is the embedded corpus (write ./atlas for a folder of that name)."""
        return self.path == "atlas"


def name_of(path: Path) -> str:
    """The path as text with forward slashes; bytes that are not UTF-8 are spelled out."""
    return path.as_posix().encode("utf-8", "backslashreplace").decode()


def format_of(path: Path) -> str | None:
    """ "text", "html", "jsonl" or "parquet" by the suffix, or None."""
    suffixes = [suffix.lower() for suffix in PurePath(path).suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        kind = FORMATS.get(suffixes[-2]) if len(suffixes) > 1 else None
        return None if kind == "parquet" else kind
    return FORMATS.get(suffixes[-1]) if suffixes else None


def find_files(source: Source) -> list[Path]:
    """The files of a source, sorted. A file that is named must be readable; in folders and globs, hidden
    files and other suffixes are passed over, but something must be left."""
    path = Path(source.path).expanduser()
    if path.is_file():
        if format_of(path) is None:
            raise UserError(f"{path}: the suffix '{''.join(path.suffixes)}' is not known.{_suffixes()}")
        return [path]
    if path.is_dir():
        found = list(_walk(path))
    elif glob.has_magic(source.path):
        names = sorted(glob.glob(str(path), recursive=True))
        found = [
            file for name in names for file in (_walk(Path(name)) if os.path.isdir(name) else [Path(name)])
        ]
    else:
        raise UserError(f"source '{source.path}': no such file or folder.{_name_beside(path)}")
    readable = sorted({file for file in found if format_of(file) is not None})
    if not readable:
        others = sorted({"".join(file.suffixes[-2:]) or "no suffix" for file in found})[:8]
        seen = f"{len(found)} files with {', '.join(others)}" if found else "no files"
        raise UserError(f"source '{source.path}': nothing to read, found {seen}.{_suffixes()}")
    return readable


def _walk(folder: Path) -> Iterator[Path]:
    for directory, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(directory, name) for name in sorted(files) if not name.startswith("."))


def _name_beside(path: Path) -> str:
    """A file or folder that may have been meant. Suffixes do not count: all texts may share them."""
    beside = list(path.parent.iterdir()) if path.parent.is_dir() else []
    stems = {other.stem: other.name for other in beside[:MANY] if not other.name.startswith(".")}
    near = closest(path.stem, stems)
    return f" Did you mean '{stems[near]}'?" if near else ""


def _suffixes() -> str:
    return f" Readable are {', '.join(FORMATS)}, all but .parquet also with {' or '.join(COMPRESSIONS)}."


@contextmanager
def open_bytes(path: Path) -> Generator[BinaryIO]:
    """The file's bytes, decompressed by suffix. A truncated stream raises one of `BROKEN_STREAM`."""
    suffix = path.suffix.lower()
    with open(path, "rb") as file:
        if suffix == ".gz":
            with gzip.GzipFile(fileobj=file) as stream:
                yield cast(BinaryIO, stream)
        elif suffix == ".zst":
            yield cast(BinaryIO, io.BufferedReader(_ZstdReader(file), 1 << 16))
        else:
            yield file


class _ZstdReader(io.RawIOBase):
    """Zstandard frames as a stream. The library's own reader takes a truncated file for a whole one."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._pending = memoryview(b"")
        self._left = b""
        self._frame: Any = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._pending:
            piece = self._left or self._file.read(_COMPRESSED_PIECE)
            if not piece:
                if self._frame is not None:
                    raise EOFError("the compressed file ends in the middle of a frame")
                return 0
            self._frame = (
                self._frame or zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES).decompressobj()
            )
            self._pending, self._left = memoryview(self._frame.decompress(piece)), b""
            if self._frame.eof:
                self._left, self._frame = self._frame.unused_data, None
        size = min(len(buffer), len(self._pending))
        buffer[:size] = self._pending[:size]
        self._pending = self._pending[size:]
        return size
