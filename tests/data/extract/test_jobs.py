"""What the extractors keep of a page, and how its bytes become characters."""

from __future__ import annotations

import pytest

from modelwright.data.extract.encoding import decode
from modelwright.data.extract.jobs import plain, resiliparse, trafilatura

pytest.importorskip("resiliparse")

STORY = "A sentence that matters to the reader, and is long enough. " * 6


def test_content_stays_and_furniture_goes() -> None:
    page = f"""<!DOCTYPE html><html><head><title>T</title><style>p{{}}</style>
    <script>if (a<b) {{}}</script></head>
    <body><nav><ul><li>Home</ul></nav>
    <main><h1>Head</h1><p>One <b>bold</b>
       word &amp; more.<p>{STORY}<br>lines</p><!-- no --><ul><li>{STORY}<li>{STORY}</ul>
    <svg><text>S</text></svg></main>
    <footer>© 2026</footer></body></html>"""
    text = resiliparse(page.encode())
    assert text.startswith("Head\n\nOne bold word & more.\n\nA sentence")
    assert text.count("\n• A sentence") == 2
    assert "Home" in plain(page.encode()) and "if (a" not in plain(page.encode())


@pytest.mark.parametrize("extract", [resiliparse, plain])
def test_preformatted_text_keeps_its_shape(extract: type[str]) -> None:
    page = b"<p>Code:</p><pre>def f(x):\n    return x\n\n\nf(1)</pre>"
    assert extract(page) == "Code:\n\ndef f(x):\n    return x\n\n\nf(1)"


def test_tables_are_rows() -> None:
    assert resiliparse(b"<table><tr><td>a<td>b</tr><tr><td>c<td>d</tr></table>") == "a\t\tb\nc\t\td"


def test_a_page_that_is_all_list_or_form_is_still_read() -> None:
    assert resiliparse(b"<body><form><p>Everything is in here.</p></form></body>") == "Everything is in here."
    assert resiliparse(b"<ul><li>a<li>b</ul>") == "• a\n\n• b"


def test_lists_stay_and_menus_go() -> None:
    kept = "<UL class=x><li>one<li>two <a href=u>link</a> and more<ul><li>three</ul></ul>"
    menu = "<ul><li><a href=h>Home</a><li><a href=u>About us</a></ul>"
    page = f"<main><p>{STORY}</p>{kept}{menu}<ol><li>first</ol><p>{STORY}</p></main>"
    text = resiliparse(page.encode())
    assert "• one\n\n• two link and more\n\n• three" in text and "1. first" in text and "Home" not in text


def test_trafilatura() -> None:
    pytest.importorskip("trafilatura")
    page = f"<html><body><nav>menu</nav><article><h1>Head</h1><p>{STORY}</p></article></body></html>"
    text = trafilatura(page.encode())
    assert STORY.strip() in text and "menu" not in text


@pytest.mark.parametrize(
    "page", ["", "<", "<p", "<!", "&#xD800;", "</nav></p>", "<script>never closed", "<![CDATA[", "a\0b"]
)
def test_rubbish_does_not_raise(page: str) -> None:
    resiliparse(page.encode()).encode()
    plain(page.encode()).encode()


@pytest.mark.parametrize(
    ("content", "charset", "text"),
    [
        ("é".encode(), "", "é"),
        (b"\xef\xbb\xbf" + "é".encode(), "latin-1", "é"),
        ("é".encode("utf-16"), "", "é"),
        (b'<META charset="windows-1252">\x80', "", '<META charset="windows-1252">€'),
        (b"<meta charset=latin-1>\x93", "", "<meta charset=latin-1>\u201c"),
        (b"<meta charset=x-unknown>" + "é".encode(), "", "<meta charset=x-unknown>é"),
        (b"<meta charset=hex>" + "é".encode(), "", "<meta charset=hex>é"),
        ("é".encode("latin-1"), "ISO-8859-1", "é"),
        ("<meta charset=latin-1>é".encode(), "UTF-8", "<meta charset=latin-1>é"),
    ],
)
def test_character_sets(content: bytes, charset: str, text: str) -> None:
    assert decode(content, charset) == text
