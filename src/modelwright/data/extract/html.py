"""The main text of an HTML page, with the standard library's parser.

What is never content goes (scripts, styles, navigation, page headers and footers, forms); where a
page marks its content with <main> or <article>, only that is kept. Block elements end a line,
paragraphs and headings a blank one, <pre> keeps its white space.
"""

from __future__ import annotations

import codecs
import re
from collections import Counter
from html.parser import HTMLParser


def _tags(names: str) -> frozenset[str]:
    return frozenset(names.split())


FURNITURE = _tags("nav aside header footer form dialog")
DROPPED = FURNITURE | _tags(
    "head script style noscript template svg math canvas iframe object button select textarea"
)
PARAGRAPHS = _tags(
    "p h1 h2 h3 h4 h5 h6 ul ol dl table pre blockquote section article main figure hr details address"
)
LINES = _tags("div br li dt dd tr option caption figcaption summary legend fieldset center")
BULLET = "- "
VOID = _tags("area base br col embed hr img input link meta param source track wbr")

_META_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w.:-]{1,40})", re.IGNORECASE)
_SPACES = re.compile(r"[^\S\n]+")
_BLANK_LINES = re.compile(r"\n{3,}")


class _Extractor(HTMLParser):
    """Collects text. Open elements are counted as well as stacked, so that a page of a million
    unclosed tags costs no more than another."""

    def __init__(self, dropped: frozenset[str]) -> None:
        super().__init__(convert_charrefs=True)
        self._dropped = dropped
        self._open: list[str] = []
        self._count: Counter[str] = Counter()
        self._dropping = 0
        self._newlines = 2  # that end the text so far; at its start we are on a fresh line
        self.whole: list[str] = []
        self.content: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._break(tag)
        if tag == "li" and self.whole[-1:] != [BULLET]:
            self._write(BULLET)
        elif tag in ("td", "th"):
            self._flow(" ")
        if tag not in VOID:
            self._open.append(tag)
            self._count[tag] += 1
            self._dropping += tag in self._dropped

    def handle_endtag(self, tag: str) -> None:
        while self._count[tag]:
            closed = self._open.pop()
            self._count[closed] -= 1
            self._dropping -= closed in self._dropped
            if closed == tag:
                break
        self._break(tag)

    def handle_data(self, data: str) -> None:
        if self._count["pre"]:
            self._write(data)
        else:
            self._flow(re.sub(r"\s+", " ", data))

    def _flow(self, text: str) -> None:
        """Text whose white space means nothing: a line does not start with any."""
        at_start = self._newlines or self.whole[-1:] == [BULLET]
        self._write(text.lstrip(" ") if at_start else text)

    def _break(self, tag: str) -> None:
        if self.whole[-1:] == [BULLET]:
            return  # <li><p>: the paragraph goes on the bullet's line
        wanted = 2 if tag in PARAGRAPHS else 1 if tag in LINES else 0
        self._write("\n" * (wanted if tag == "br" else wanted - self._newlines))

    def _write(self, text: str) -> None:
        if text and not self._dropping:
            self.whole.append(text)
            body = text.rstrip(" ")
            self._newlines = len(body) - len(body.rstrip("\n")) + (0 if body.strip("\n") else self._newlines)
            if self._count["main"] or self._count["article"]:
                self.content.append(text)


def main_text(html: str) -> str:
    """The readable text of a page; "" where there is none."""
    for dropped in (DROPPED, DROPPED - FURNITURE):  # some pages put everything in a form
        extractor = _Extractor(dropped)
        extractor.feed(html)
        extractor.close()
        whole, content = _tidy(extractor.whole), _tidy(extractor.content)
        if len(content) * 5 >= len(whole) and content:
            return content
        if whole:
            return whole
    return ""


def _tidy(pieces: list[str]) -> str:
    """Join; spaces at line ends, runs of spaces after the indent, runs of blank lines and bullets with
    nothing behind them go."""
    lines: list[str] = []
    for line in "".join(pieces).split("\n"):
        body = line.strip()
        indent = line[: len(line) - len(line.lstrip())]
        if body != BULLET.strip():
            lines.append(indent + _SPACES.sub(" ", body) if body else "")
    return _BLANK_LINES.sub("\n\n", "\n".join(lines)).strip()


def decode(content: bytes) -> str:
    """Bytes of a page -> text, by byte order mark, `<meta charset>`, else UTF-8.

    Raises UnicodeDecodeError where the bytes are not what the page says.
    """
    for mark, name in ((codecs.BOM_UTF8, "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if content.startswith(mark):
            return content.decode(name)
    found = _META_CHARSET.search(content[:2048])
    name = found.group(1).decode("ascii").lower() if found else "utf-8"
    if name in ("iso-8859-1", "latin-1", "ascii", "us-ascii"):
        name = "cp1252"  # what browsers do, since pages mean it
    try:
        return content.decode(name)
    except LookupError:
        return content.decode("utf-8")
