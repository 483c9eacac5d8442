"""A file's text as a stream of UTF-8 bytes: decompressed, transcoded, in lines, all in bounded memory."""

from __future__ import annotations

import codecs
import io
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

import zstandard

from modelwright.data.readers.faults import Faults
from modelwright.data.readers.storage import open_raw, readable, stat

MAX_LINE_BYTES = 1 << 27
"""The longest line that is read; longer ones are skipped as a fault."""

MAX_EXPANSION = 250
"""A stream that swells to more than this many times its size on disk is a decompression bomb. Text
shrinks to a fifth, monotonous logs to a hundredth; gzip goes no further than 1/1032, zstd much further."""

HARMLESS_BYTES = 1 << 26
"""A stream up to this size is no bomb, whatever its ratio."""

_PIECE = 1 << 16
_COMPRESSED_PIECE = 1 << 13  # small, so that a decompression bomb swells to 256 MiB at the very worst
_MAX_WINDOW_BYTES = 1 << 27


class Bomb(OSError):
    """A compressed file that swells beyond all measure."""


BROKEN_STREAM = (EOFError, OSError, zlib.error, zstandard.ZstdError, UnicodeError)
"""What reading a truncated, garbled or vanished file raises."""


@contextmanager
def open_bytes(path: str) -> Generator[BinaryIO]:
    """The file's bytes, decompressed by suffix. Text in UTF-16 or UTF-32 that says so by its byte order
    mark becomes UTF-8. A truncated stream raises one of `BROKEN_STREAM`."""
    suffix = path[-4:].lower()
    with open_raw(path) as file:
        if suffix.endswith(".gz"):
            pieces = _bounded(_gunzip(file), file)
        elif suffix.endswith(".zst"):
            pieces = _bounded(_unzstd(file), file)
        else:
            pieces = None
        stream = cast(BinaryIO, io.BufferedReader(_Pieces(pieces), _PIECE)) if pieces else file
        encoding = wide_encoding(_peek(stream))
        if encoding:
            stream = cast(BinaryIO, io.BufferedReader(_Pieces(_to_utf8(stream, encoding)), _PIECE))
        yield stream


def wide_encoding(start: bytes) -> str | None:
    """ "utf-16" or "utf-32" where the first bytes are their mark."""
    if start.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    return "utf-16" if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else None


def _peek(stream: Any) -> bytes:
    """The first four bytes, which stay unread."""
    if hasattr(stream, "peek"):
        return stream.peek(4)[:4]
    start = stream.read(4)
    stream.seek(0)
    return start


def _bounded(pieces: Iterator[bytes], file: BinaryIO) -> Iterator[bytes]:
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > HARMLESS_BYTES and size > MAX_EXPANSION * max(1, file.tell()):
            raise Bomb(f"swells to over {MAX_EXPANSION} times its size: a decompression bomb")
        yield piece


def _gunzip(file: BinaryIO) -> Iterator[bytes]:
    """Members of a gzip file, one behind the other, and zeros between them (RFC 1952)."""
    left, member, behind_one = b"", None, False
    while piece := left or file.read(_COMPRESSED_PIECE):
        left = b""
        if member is None:
            piece = piece.lstrip(b"\0") if behind_one else piece
            if not piece:
                continue
            member = zlib.decompressobj(wbits=31)
        if out := member.decompress(piece, 1 << 20):
            yield out
        left = member.unconsumed_tail
        if member.eof:
            left, member, behind_one = member.unused_data, None, True
    if member is not None:
        if out := member.flush():
            yield out
        if not member.eof:
            raise EOFError("the compressed file ends in the middle of a member")


def _unzstd(file: BinaryIO) -> Iterator[bytes]:
    """Zstandard frames. The library's own reader takes a truncated file for a whole one."""
    left, frame = b"", None
    while piece := left or file.read(_COMPRESSED_PIECE):
        frame = frame or zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES).decompressobj()
        out, left = frame.decompress(piece), b""
        if frame.eof:
            left, frame = frame.unused_data, None
        if out:
            yield out
    if frame is not None:
        raise EOFError("the compressed file ends in the middle of a frame")


def _to_utf8(stream: BinaryIO, encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)()
    while piece := stream.read(_PIECE):
        yield decoder.decode(piece).encode()
    yield decoder.decode(b"", final=True).encode()


class _Pieces(io.RawIOBase):
    """An iterator of bytes as a stream."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._pending = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._pending:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._pending = memoryview(piece)
        size = min(len(buffer), len(self._pending))
        buffer[:size] = self._pending[:size]
        self._pending = self._pending[size:]
        return size


def lines_of(
    path: str, faults: Faults, start: int, stop: int | None, first: int
) -> Iterator[tuple[int, bytes]]:
    """(number, line with its end) of the lines that begin in the bytes [start, stop) of a file; both are
    ends of lines. `first` lines stand before. A line that is too long is a fault, and reading goes on
    behind it; so does a stream that breaks, and there it ends."""
    number, place = first, start
    try:
        with open_bytes(path) as file:
            if start:
                file.seek(start)
            while (stop is None or place < stop) and (line := file.readline(MAX_LINE_BYTES + 1)):
                number += 1
                place += len(line)
                if len(line) <= MAX_LINE_BYTES:
                    yield number, line
                    continue
                problem = f"longer than {MAX_LINE_BYTES:,} bytes"
                faults("line too long", f"{readable(path)}, line {number}", problem)
                while line and not line.endswith(b"\n"):
                    line = file.readline(1 << 20)
                    place += len(line)
    except BROKEN_STREAM as error:
        broken_stream(error, path, faults, f" after {number} lines")


def broken_stream(error: Exception, path: str, faults: Faults, after: str = "") -> None:
    """The fault for what reading raised."""
    try:
        size = stat(path).size
    except OSError:
        size = 0
    if isinstance(error, Bomb):
        faults("decompression bomb", readable(path), f"{error} ({size:,} bytes on disk)")
    else:
        problem = f"truncated or garbled{after} ({size:,} bytes on disk): {error}"
        faults("file truncated or garbled", readable(path), problem)
