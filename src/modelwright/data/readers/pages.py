"""The text of pages and PDF files: what cannot be had costs one document, and is counted."""

from __future__ import annotations

from modelwright.data.extract.child import NotExtracted, extract
from modelwright.data.extract.encoding import decode
from modelwright.data.readers.faults import Faults
from modelwright.data.readers.source import Source


def decode_page(content: bytes, where: str, faults: Faults, charset: str = "") -> str | None:
    """The page's HTML, or None after a fault."""
    try:
        return decode(content, charset)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        problem = f"not valid {error.encoding}, which the page says it is"
        faults("not UTF-8", f"{where}, line {line}", problem)
        return None


def page_text(page: str, where: str, source: Source, faults: Faults) -> str | None:
    """The main text of HTML, or None where the extractor gave up on it."""
    return extracted(source.extract, page.encode("utf-8", "replace"), where, source, faults)


def extracted(job: str, content: bytes, where: str, source: Source, faults: Faults) -> str | None:
    """What the child process makes of the content, or None when it is passed over."""
    try:
        return extract(job, content, source.limits)
    except NotExtracted as error:
        faults.pass_over(error.reason, where)
        return None
