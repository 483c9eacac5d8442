"""What the child process does: a page or a PDF file to its text. One function an extractor."""

from __future__ import annotations

import io
from collections.abc import Callable

from modelwright.data.extract.lists import keep_lists

SKIPPED = ["script", "style", "noscript", "svg", "template", "iframe", "object", "canvas"]


def plain(content: bytes) -> str:
    """All visible text of a page in UTF-8, menus and footers too."""
    return _resiliparse(content.decode("utf-8"), main_content=False)


def resiliparse(content: bytes) -> str:
    """The main text by Resiliparse's rules (Bevendorff et al. 2018), which DCLM took over (arXiv 2406.11794):
    lists, tables and code keep their shape. All visible text where they find nothing."""
    page = content.decode("utf-8")
    return _resiliparse(keep_lists(page), main_content=True) or _resiliparse(page, main_content=False)


def _resiliparse(page: str, main_content: bool) -> str:
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLParserException

    settings = {"preserve_formatting": True, "alt_texts": False, "skip_elements": SKIPPED}
    try:
        return extract_plain_text(page, main_content=main_content, **settings).strip()
    except HTMLParserException as error:
        if "(Error 2)" in str(error):  # lexbor's LXB_STATUS_ERROR_MEMORY_ALLOCATION
            raise MemoryError(str(error)) from error
        raise


def trafilatura(content: bytes) -> str:
    """The main text by trafilatura (Barbaresi 2021, ACL), with precision favoured as in FineWeb."""
    from trafilatura import extract

    text = extract(content.decode("utf-8"), favor_precision=True, include_comments=False, deduplicate=False)
    return text or ""


def pdf(content: bytes) -> str:
    """The text of all pages of a PDF file, a blank line between two."""
    from pypdf import PdfReader

    reader = PdfReader(io.BytesIO(content))
    if reader.is_encrypted and not reader.decrypt(""):
        raise PermissionError("encrypted with a password")
    return "\n\n".join(page.extract_text().strip() for page in reader.pages)


JOBS: dict[str, Callable[[bytes], str]] = {
    "resiliparse": resiliparse,
    "trafilatura": trafilatura,
    "plain": plain,
    "pdf": pdf,
}

NEEDS = {
    "resiliparse": ("resiliparse", "data"),
    "plain": ("resiliparse", "data"),
    "trafilatura": ("trafilatura", "trafilatura"),
    "pdf": ("pypdf", "pdf"),
}
"""Job -> (package, our extra that brings it)."""
