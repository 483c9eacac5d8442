"""PDF: a file is a document of its pages' text. Scans hold none, and become empty documents."""

from __future__ import annotations

from collections.abc import Iterator

from modelwright.base.schema import Document
from modelwright.data.extract.child import NotExtracted, extract
from modelwright.data.readers.documents import make_document
from modelwright.data.readers.faults import Faults
from modelwright.data.readers.part import Part
from modelwright.data.readers.source import Source
from modelwright.data.readers.text import read_whole


def read(part: Part, source: Source, faults: Faults) -> Iterator[Document]:
    """The text of all pages. A file that the parser refuses is a fault; one on which it hangs, or which
    eats its memory, is passed over."""
    content = read_whole(part, faults)
    if content is None:
        return
    try:
        text = extract("pdf", content, source.limits)
    except NotExtracted as error:
        if error.reason.rule == "extraction failed":
            faults("file truncated or garbled", part.where, f"not a whole PDF file: {error.reason.value}")
        else:
            faults.pass_over(error.reason, part.where)
        return
    document = make_document(text, part, source, part.where, faults, {})
    if document:
        yield document
