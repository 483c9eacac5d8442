"""WARC (ISO 28500): the main text of pages that a crawler fetched.

Responses with HTML or plain text are read; the address goes into `meta["url"]`, the day into
`meta["date"]`. Behind a record that is broken or has a wrong length, reading goes on at the next one.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from modelwright.base.errors import UserError
from modelwright.base.schema import Document, Json, Reason
from modelwright.data.readers.documents import make_document
from modelwright.data.readers.faults import Faults
from modelwright.data.readers.pages import decode_page, page_text
from modelwright.data.readers.part import Part
from modelwright.data.readers.source import Source
from modelwright.data.readers.storage import open_raw
from modelwright.data.readers.streams import BROKEN_STREAM, broken_stream

MAX_RECORD_BYTES = 1 << 26
"""The largest record that is read. Common Crawl cuts them at 1 MiB."""

HTML = ("text/html", "application/xhtml+xml")
PLAIN = ("text/plain",)
_START, _GZIP_START = b"\nWARC/1.", b"\x1f\x8b\x08"
"""What a record starts with behind another one: as it is, and in a gzip member of its own."""
_MAX_HEADER_BYTES = 1 << 16
_PIECE = 1 << 20


def read(part: Part, source: Source, faults: Faults) -> Iterator[Document]:
    """The documents of a file's responses. `meta["record"]` is the byte in the file where a record starts."""
    try:
        with open_raw(part.path) as file:
            for place, record in _records(file, part, faults):
                where = f"{part.where}, record at byte {place}"
                document = _document(record, where, place, part, source, faults)
                if document:
                    yield document
    except BROKEN_STREAM as error:
        broken_stream(error, part.path, faults)


def _records(file: BinaryIO, part: Part, faults: Faults) -> Iterator[tuple[int, Any]]:
    """(byte, response with its block in memory). Each waits until the next one has been found where its
    length says: else one of the two is broken, and reading goes on at what looks like a record."""
    start: int | None = 0
    is_told = False  # whether what stands at `start` has been counted as broken
    while start is not None:
        place, waiting, length = start, None, 0
        try:
            for record in _iterate(file, start):
                if waiting:
                    yield waiting
                place, waiting, length, is_told = record.stream_pos, None, record.content_length, False
                waiting = _whole(record, place, part, faults)
        except (OSError, RuntimeError, ValueError, EOFError, zlib.error) as error:
            is_good = waiting is not None and _has_its_length(file, place, length)
            if waiting and is_good:
                yield waiting
            if not is_told:
                where = f"{part.where}, {'behind the ' * is_good}record at byte {place}"
                faults("record broken", where, f"a wrong length, or garbled: {error}")
            start, is_told = _next_start(file, place + 1), is_good
            continue
        if waiting:
            yield waiting
        return


def _has_its_length(file: BinaryIO, place: int, length: int) -> bool:
    """Whether a record's block ends where it says: a line end follows, or nothing."""
    file.seek(place)
    content = file.read(length + _MAX_HEADER_BYTES)
    if content.startswith(_GZIP_START):
        content = zlib.decompressobj(wbits=31).decompress(content, length + _MAX_HEADER_BYTES)
    _, _, rest = content.partition(b"\r\n\r\n")
    return len(rest) == length or rest[length : length + 2] == b"\r\n"


def _iterate(file: BinaryIO, start: int) -> Iterator[Any]:
    try:
        from fastwarc.warc import ArchiveIterator, WarcRecordType
    except ImportError as error:
        raise UserError("WARC files need FastWARC. Run: pip install 'modelwright[data]'") from error
    file.seek(start)
    return ArchiveIterator(
        file, record_types=WarcRecordType.any_type, parse_http=False, auto_decode="all", fsspec_args=False
    )


def _whole(record: Any, place: int, part: Part, faults: Faults) -> tuple[int, Any] | None:
    """A response with its block, read and of the right length; None for other records."""
    from fastwarc.warc import WarcRecordType

    if record.record_type != WarcRecordType.response:
        return None
    length = record.content_length
    if length > MAX_RECORD_BYTES:
        faults("record too large", f"{part.where}, record at byte {place}", f"says {length:,} bytes")
        return None
    block = record.reader.read()
    if len(block) < length:
        raise EOFError(f"{len(block):,} bytes where {length:,} are promised")
    record.set_bytes_content(block)
    return place, record


def _next_start(file: BinaryIO, after: int) -> int | None:
    """Where the next record seems to start at or behind a byte; None at the end."""
    file.seek(0)
    mark = _GZIP_START if file.read(3) == _GZIP_START else _START
    file.seek(after)
    place, tail = after, b""
    while piece := file.read(_PIECE):
        found = (tail + piece).find(mark)
        if found >= 0:
            return place - len(tail) + found + (mark == _START)
        place += len(piece)
        tail = (tail + piece)[-len(mark) + 1 :]
    return None


def _document(
    record: Any, where: str, place: int, part: Part, source: Source, faults: Faults
) -> Document | None:
    try:
        record.parse_http(auto_decode="transfer")
        headers = record.http_headers
        body = _decoded(record.reader.read(), str(headers.get("Content-Encoding", ""))) if headers else b""
    except (OSError, RuntimeError, ValueError, EOFError, zlib.error) as error:
        faults("record broken", where, f"no HTTP response: {error}")
        return None
    kind, status = record.http_content_type or "unknown", headers.status_code if headers else None
    if kind not in HTML + PLAIN or status != 200:
        shown = f"HTTP status {status}" if kind in HTML + PLAIN else str(kind)
        faults.pass_over(Reason("no page", shown), where)
        return None
    if len(body) > MAX_RECORD_BYTES:
        faults("decompression bomb", where, f"swells to over {MAX_RECORD_BYTES:,} bytes")
        return None
    page = decode_page(body, where, faults, record.http_charset or "")
    if page is None:
        return None
    text = page_text(page, where, source, faults) if kind in HTML else page.replace("\r\n", "\n")
    if text is None:
        return None
    meta: dict[str, Json] = {"record": place, "url": record.headers.get("WARC-Target-URI") or "unknown"}
    if date := record.headers.get("WARC-Date"):
        meta["date"] = date
    return make_document(text, part, source, where, faults, meta)


def _decoded(body: bytes, encoding: str) -> bytes:
    """The body without its compression, at most one byte more than `MAX_RECORD_BYTES`."""
    if "gzip" in encoding and body.startswith(_GZIP_START):  # many crawlers store it already unpacked
        return zlib.decompressobj(wbits=31).decompress(body, MAX_RECORD_BYTES + 1)
    if "deflate" in encoding and body[:1] == b"\x78":
        return zlib.decompressobj().decompress(body, MAX_RECORD_BYTES + 1)
    return body
