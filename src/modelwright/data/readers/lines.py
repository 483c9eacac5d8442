"""Plain text in which each line is a document: a format that only a source's `format` can name."""

from __future__ import annotations

from collections.abc import Iterator

from modelwright.base.schema import Document
from modelwright.data.readers.documents import make_document
from modelwright.data.readers.faults import Faults
from modelwright.data.readers.part import Part
from modelwright.data.readers.source import Source
from modelwright.data.readers.streams import lines_of


def read(part: Part, source: Source, faults: Faults) -> Iterator[Document]:
    """A document a line; blank lines are passed over."""
    for number, line in lines_of(part.path, faults, part.start, part.stop, part.first):
        where = f"{part.where}, line {number}"
        try:
            text = line.decode("utf-8-sig").rstrip("\r\n")
        except UnicodeDecodeError as error:
            faults("not UTF-8", where, f"not valid UTF-8 at byte {error.start} of the line")
            continue
        if text.strip() and (document := make_document(text, part, source, where, faults, {"line": number})):
            yield document
