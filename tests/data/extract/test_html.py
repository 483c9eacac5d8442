from __future__ import annotations

import pytest

from modelwright.data.extract.html import decode, main_text


def test_content_stays_and_furniture_goes() -> None:
    page = """<!DOCTYPE html><html><head><title>T</title><style>p{}</style><script>if (a<b) {}</script></head>
    <body><header>Logo</header><nav><ul><li>Home</ul></nav>
    <h1>Head</h1><p>One <b>bold</b>
       word&nbsp;&amp; more.<p>Two<br>lines</p><!-- no --><ul><li>a<li>b</ul>
    <form><input value=x>search</form><footer>© 2026</footer></body></html>"""
    assert main_text(page) == "Head\n\nOne bold word & more.\n\nTwo\nlines\n\n- a\n- b"


def test_preformatted_text_keeps_its_shape() -> None:
    page = "<p>Code:</p><pre>def f(x):\n    return x\n\n\n\nf(1)</pre>"
    assert main_text(page) == "Code:\n\ndef f(x):\n    return x\n\nf(1)"


def test_marked_content_wins_unless_it_is_a_scrap() -> None:
    text = "A sentence that matters to the reader. " * 3
    assert main_text(f"<div>around</div><main><p>{text}</p></main><div>below</div>") == text.strip()
    assert "around" in main_text(f"<article>x</article><p>{'around and about ' * 9}</p>")


def test_white_space_around_tags_means_nothing() -> None:
    page = "<div>\n  <p>\n  One\n  </p>\n  <ul>\n <li>\n <p>two</p>\n <li> <li>three</ul>\n</div>"
    assert main_text(page) == "One\n\n- two\n\n- three"


def test_tables_are_rows() -> None:
    assert main_text("<table><tr><td>a<td>b</tr><tr><td>c<td>d</tr></table>") == "a b\nc d"


def test_a_page_that_is_all_form_is_still_read() -> None:
    assert main_text("<body><form><p>Everything is in here.</p></form></body>") == "Everything is in here."


@pytest.mark.parametrize(
    "page", ["", "<", "<p", "<!", "&#xD800;", "</nav></p>", "<script>never closed", "<![CDATA["]
)
def test_rubbish_does_not_raise(page: str) -> None:
    main_text(page).encode()


def test_hostile_depth_is_linear() -> None:
    page = "<div>x" * 10_000 + "</p>" * 10_000
    assert main_text(page).count("x") == 10_000


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("é".encode(), "é"),
        (b"\xef\xbb\xbf" + "é".encode(), "é"),
        ("é".encode("utf-16"), "é"),
        (b'<META charset="windows-1252">\x80', '<META charset="windows-1252">€'),
        (b"<meta charset=latin-1>\x93", "<meta charset=latin-1>\u201c"),
        (b"<meta charset=x-unknown>" + "é".encode(), "<meta charset=x-unknown>é"),
    ],
)
def test_character_sets(content: bytes, text: str) -> None:
    assert decode(content) == text
