"""For any bytes: a page has a text or is refused. What is to be read stays in its order, what is not goes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from encodings.aliases import aliases
from html import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.base.schema import Reason
from modelwright.data.extract.child import NotExtracted, extract
from modelwright.data.extract.encoding import NO_CHARACTER_SETS, decode
from modelwright.data.extract.jobs import JOBS, NEEDS, SKIPPED, plain, resiliparse
from modelwright.data.extract.limits import Limits
from modelwright.data.extract.lists import BULLET, keep_lists

pytest.importorskip("resiliparse")

PRINTED = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=80)
MARKUP = ["<p>", "</p>", "<nav>", "</nav>", "<pre>", "<!--", "-->", "&#", "<main>", "<li", "<a>", "</a>"]
MARKUP += ["<ul>", "</ul>", "<ol>", "</ol>", "<li>", "</li>", "<table><tr><td>", "<![CDATA[", "<script>"]
PAGES = st.lists(st.one_of(PRINTED, st.sampled_from(MARKUP))).map("".join)

WORDS = st.text("abcdefgh", min_size=1, max_size=5)
BLOCKS = ["div", "p", "b", "section", "article", "nav", "footer", "main", "h2", "blockquote", "span"]
Part = tuple[str, list[str]]
"""Markup, and the words of it that are to be read."""


def joined(parts: Iterable[Part]) -> Part:
    parts = list(parts)
    return "".join(markup for markup, _ in parts), [word for _, words in parts for word in words]


LEAVES = st.one_of(
    WORDS.map(lambda word: (f" {word} ", [word])),
    WORDS.map(lambda word: (f"<pre>{word}</pre>", [word])),
    WORDS.map(lambda word: (f'<!-- {word} --><img alt="{word}" title="{word}">', list[str]())),
    st.tuples(st.sampled_from(SKIPPED), WORDS).map(lambda of: (f"<{of[0]}>{of[1]}</{of[0]}>", list[str]())),
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.tuples(st.sampled_from(BLOCKS), st.lists(inner, max_size=4).map(joined)).map(
        lambda of: (f'<{of[0]} id="{of[0]}">{of[1][0]}</{of[0]}>', of[1][1])
    ),
    max_leaves=10,
)


PDF = b"""%PDF-1.4
1 0 obj <</Type/Catalog/Pages 2 0 R>> endobj
2 0 obj <</Type/Pages/Kids[3 0 R]/Count 1>> endobj
3 0 obj <</Type/Page/Parent 2 0 R/Contents 4 0 R/Resources<</Font<</F 5 0 R>>>>>> endobj
4 0 obj <</Length 31>>stream
BT /F 9 Tf 9 9 Td (Whole) Tj ET
endstream endobj
5 0 obj <</Type/Font/Subtype/Type1/BaseFont/Courier>> endobj
"""
PDF += b"xref\n0 1\n0000000000 65535 f \ntrailer<</Size 6/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % len(PDF)


def changed(content: bytes, changes: list[tuple[int, int]]) -> bytes:
    """With a byte written over at each place."""
    made = bytearray(content)
    for place, byte in changes:
        made[place] = byte
    return bytes(made)


PDFS = st.lists(st.tuples(st.integers(0, len(PDF) - 1), st.integers(0, 255)), max_size=4).map(
    lambda changes: changed(PDF, changes)
)


@pytest.mark.parametrize("job", JOBS)
@given(content=st.one_of(st.binary(max_size=200), PAGES.map(str.encode), PDFS))
@settings(max_examples=30, deadline=None)
def test_any_bytes_have_a_text_or_are_refused(job: str, content: bytes) -> None:
    """And the child goes on as if they had never been: nothing depends on what was read before."""
    pytest.importorskip(NEEDS[job][0])
    found: list[str | Reason] = []
    for _ in range(2):
        try:
            found.append(extract(job, content, Limits()))
        except NotExtracted as refused:
            assert refused.reason.rule == "extraction failed" and refused.reason.value
            found.append(refused.reason)
    assert found[0] == found[1]


def test_the_file_that_is_changed_has_a_text() -> None:
    pytest.importorskip("pypdf")
    assert extract("pdf", PDF, Limits()) == "Whole"


@given(PAGES)
@settings(max_examples=100, deadline=None)
def test_a_text_that_was_extracted_is_a_page_of_itself(page: str) -> None:
    for job in (plain, resiliparse):
        text = job(page.encode())
        assert text == text.strip()
        assert plain(f"<pre>{escape(text)}</pre>".encode()) == text


@given(PRINTED)
@settings(max_examples=100, deadline=None)
def test_the_words_of_a_paragraph_come_back(text: str) -> None:
    page = f"<p>{escape(text)}</p>".encode()
    assert plain(page).split() == resiliparse(page).split() == text.split()


@given(st.lists(TREES, max_size=4).map(joined))
@settings(max_examples=40, deadline=None)
def test_what_is_to_be_read_stays_in_order_and_what_is_not_goes(page: Part) -> None:
    markup, words = f"<body>{page[0]}".encode(), page[1]
    assert plain(markup).split() == words
    assert is_part_in_order(resiliparse(markup).split(), words)


def is_part_in_order(some: Iterable[str], every: Iterable[str]) -> bool:
    """Whether the first is the second with items left out."""
    left: Iterator[str] = iter(every)
    return all(each in left for each in some)


@given(PAGES)
@settings(max_examples=100)
def test_lists_change_tags_and_bullets_alone(page: str) -> None:
    def without_tags(markup: str) -> str:
        return re.sub(r"<[^<>]*>", "", markup).replace(BULLET, "")

    assert without_tags(keep_lists(page)) == without_tags(page)


CHARSETS = st.one_of(st.sampled_from(sorted({*aliases, *NO_CHARACTER_SETS})), st.text(max_size=12))


@given(st.binary(max_size=80), CHARSETS, st.booleans())
@settings(max_examples=100, deadline=None)
def test_any_bytes_under_any_name_are_characters_or_refused(content: bytes, name: str, states: bool) -> None:
    page = b'<meta charset="%s">%s' % (name.encode(), content) if states else content
    try:
        text = decode(page, "" if states else name)
    except UnicodeDecodeError as error:
        assert 0 <= error.start <= error.end <= len(page)
    else:
        assert isinstance(text, str)


@given(PRINTED, st.sampled_from(["utf-8", "utf-16", "utf-8-sig"]), st.text(max_size=8))
def test_a_byte_order_mark_is_believed_before_any_name(text: str, encoding: str, name: str) -> None:
    page = text.encode(encoding)
    mark = b"\xef\xbb\xbf" if encoding == "utf-8" else b""
    assert decode(mark + page, name) == text


def test_names_of_python_s_own_are_no_character_sets_of_pages() -> None:
    """Undoing punycode takes time that grows with the square of the page: minutes for this one."""
    page = b"<meta charset=punycode>-" + b"abcz" * 500_000
    assert decode(page) == page.decode()
    assert decode(rb"\ud800\x41", "unicode_escape") == r"\ud800\x41"
