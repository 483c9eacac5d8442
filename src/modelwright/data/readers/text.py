"""Plain text and Markdown: a file is a document."""

from __future__ import annotations

from collections.abc import Iterator

from modelwright.base.schema import Document
from modelwright.data.readers.documents import MAX_TEXT_BYTES, make_document
from modelwright.data.readers.faults import Faults
from modelwright.data.readers.part import Part
from modelwright.data.readers.source import Source
from modelwright.data.readers.streams import BROKEN_STREAM, broken_stream, open_bytes


def read(part: Part, source: Source, faults: Faults) -> Iterator[Document]:
    """The file as one document, in UTF-8 with or without a byte order mark, or UTF-16 or UTF-32 with one."""
    content = read_whole(part, faults)
    text = None if content is None else decode(content, part, faults)
    if text is None:
        return
    document = make_document(text.replace("\r\n", "\n"), part, source, part.where, faults, {})
    if document:
        yield document


def decode(content: bytes, part: Part, faults: Faults) -> str | None:
    """UTF-8 as text, or None after a fault. A NUL says that it is no text, or in an encoding without mark."""
    nul = content.find(b"\0")
    if nul >= 0:
        problem = f"a NUL byte at {nul:,}: not text, or not in UTF-8. Convert the file to UTF-8"
        faults("NUL bytes", f"{part.where}, line {content[:nul].count(10) + 1}", problem)
        return None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        bad = f"byte 0x{content[error.start]:02x} at {error.start:,}"
        faults("not UTF-8", f"{part.where}, line {line}", f"{bad} is not UTF-8. Convert the file to UTF-8")
        return None


def read_whole(part: Part, faults: Faults) -> bytes | None:
    """A file's bytes in one piece, decompressed, or None after a fault."""
    try:
        with open_bytes(part.path) as file:
            content = file.read(MAX_TEXT_BYTES + 1)
    except BROKEN_STREAM as error:
        broken_stream(error, part.path, faults)
        return None
    if len(content) > MAX_TEXT_BYTES:
        problem = f"over {MAX_TEXT_BYTES:,} bytes of text in one piece. Split it"
        faults("file too large", part.where, problem)
        return None
    return content
