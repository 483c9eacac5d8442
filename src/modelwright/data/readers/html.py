"""HTML files: a page is a document of its main text."""

from __future__ import annotations

from collections.abc import Iterator

from modelwright.base.schema import Document
from modelwright.data.extract.html import decode, main_text
from modelwright.data.readers.faults import Faults
from modelwright.data.readers.part import Part
from modelwright.data.readers.rows import make_document
from modelwright.data.readers.source import Source
from modelwright.data.readers.text import read_whole


def read(part: Part, source: Source, faults: Faults) -> Iterator[Document]:
    """The main text of the page."""
    content = read_whole(part, faults)
    if content is None:
        return
    try:
        page = decode(content)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        problem = f"not valid {error.encoding}, which the page says it is"
        faults("not UTF-8", f"{part.where}, line {line}", problem)
        return
    document = make_document(main_text(page), part, source, part.where, faults, {})
    if document:
        yield document
