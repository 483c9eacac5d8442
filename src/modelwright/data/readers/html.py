"""HTML files: a page is a document of its main text."""

from __future__ import annotations

from collections.abc import Iterator

from modelwright.base.schema import Document
from modelwright.data.readers.documents import make_document
from modelwright.data.readers.faults import Faults
from modelwright.data.readers.pages import decode_page, page_text
from modelwright.data.readers.part import Part
from modelwright.data.readers.source import Source
from modelwright.data.readers.text import read_whole


def read(part: Part, source: Source, faults: Faults) -> Iterator[Document]:
    """The main text of the page."""
    content = read_whole(part, faults)
    page = None if content is None else decode_page(content, part.where, faults)
    text = None if page is None else page_text(page, part.where, source, faults)
    if text is not None and (document := make_document(text, part, source, part.where, faults, {})):
        yield document
