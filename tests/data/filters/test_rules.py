"""Each rule of each filter, on the smallest text that it is about."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelwright.base.errors import ConfigError
from modelwright.base.files import sha256_text
from modelwright.base.schema import Document, Reason
from modelwright.data.filters import build, names
from modelwright.data.filters.c4_paragraphs import count_long
from modelwright.data.filters.gopher_quality import Config as GopherQuality
from modelwright.data.words import native
from modelwright.data.words.segment import segment

PROSE = "The cat and the dog have to be friends with all of the others. "
HEURISTIC = ("c4", "c4_paragraphs", "fineweb", "gopher_quality", "gopher_repetition", "refinedweb_lines")

TWICE = "duplicate line characters: 0.3333, at most 0.3 allowed"


def run(name: str, text: str, **settings: Any) -> tuple[Document | None, Reason | None]:
    dropped: list[Reason] = []
    document = Document(text=text, id=sha256_text(text), source="a.txt")
    step = build({"name": name, **settings})[1]
    kept = list(step(iter([document]), lambda _, reason: dropped.append(reason)))
    assert len(kept) + len(dropped) == 1
    return (kept[0], None) if kept else (None, dropped[0])


def rule(name: str, text: str, **settings: Any) -> str | None:
    reason = run(name, text, **settings)[1]
    return reason and str(reason)


def only(name: str, **settings: Any) -> dict[str, Any]:
    """Settings with all thresholds but these switched off."""
    off: dict[str, dict[str, Any]] = {
        "gopher_quality": dict.fromkeys(set(GopherQuality.model_fields) - {"language", "stop_words"}),
        "fineweb": dict.fromkeys(
            ("min_punctuated_lines", "max_short_lines", "max_duplicate_line_characters", "max_line_feeds")
        ),
    }
    return off[name] | settings


@pytest.mark.parametrize(
    ("text", "settings", "expected"),
    [
        ("", {}, "words: 0, the text is empty"),
        ("one two , three", {"min_words": 4}, "words: 3, at least 4 asked"),
        ("one two , three", {"max_words": 2}, "words: 3, at most 2 allowed"),
        ("a bb ...", {"min_mean_word_length": 2}, "mean word length: 1.5, at least 2 asked"),
        ("aaa bb ...", {"max_mean_word_length": 2}, "mean word length: 2.5, at most 2 allowed"),
        ("a # b c", {"max_symbol_ratio": 0.2}, "hash signs per word: 0.25, at most 0.2 allowed"),
        ("a … b...", {"max_symbol_ratio": 0.2}, "ellipses per word: 0.5, at most 0.2 allowed"),
        ("- a\n • b\nc", {"max_bullet_lines": 0.5}, "bullet lines: 0.6667, at most 0.5 allowed"),
        (
            "a...\nb… \nc",
            {"max_ellipsis_lines": 0.5},
            "lines ending in an ellipsis: 0.6667, at most 0.5 allowed",
        ),
        ("1 2 a 3", {"min_alphabetic_words": 0.5}, "words with a letter: 0.25, at least 0.5 asked"),
        ("the the The", {"min_stop_words": 2}, "stop words: 1, at least 2 asked"),
        ("ein und aus", {"min_stop_words": 1, "stop_words": ["und"]}, None),
    ],
)
def test_gopher_quality(text: str, settings: dict[str, Any], expected: str | None) -> None:
    found = rule("gopher_quality", text, **only("gopher_quality", **settings))
    assert found == (expected and f"gopher_quality: {expected}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "empty text: 1, at most 0 allowed"),
        ("a\n\na\n\nb", "duplicate paragraphs: 0.3333, at most 0.3 allowed"),
        ("a long one\n\nb\n\nc\n\na long one", "duplicate paragraph characters: 0.3571, at most 0.2 allowed"),
        ("a\nb\na", "duplicate lines: 0.3333, at most 0.3 allowed"),
        ("a long one\nb\nc\na long one", "duplicate line characters: 0.4, at most 0.2 allowed"),
        ("one two one two", "top 2-gram characters: 0.9333, at most 0.2 allowed"),
        (PROSE * 2, "top 4-gram characters: 0.2381, at most 0.16 allowed"),
    ],
)
def test_gopher_repetition(text: str, expected: str) -> None:
    assert rule("gopher_repetition", text) == f"gopher_repetition: {expected}"


def test_gopher_repetition_by_runs() -> None:
    text = " ".join(f"w{number % 40}" for number in range(60))
    found = rule("gopher_repetition", text, max_top_runs=[])
    assert found == "gopher_repetition: repeated 5-gram characters: 0.2283, at most 0.15 allowed"
    found = rule("gopher_repetition", text, max_top_runs=[], max_repeated_runs=[[10, 0.1]])
    assert found == "gopher_repetition: repeated 10-gram characters: 0.2283, at most 0.1 allowed"
    assert rule("gopher_repetition", text, max_top_runs=[], max_repeated_runs=[]) is None
    with pytest.raises(ConfigError):
        rule("gopher_repetition", text, max_top_runs=[[0, 0.1]])


@pytest.mark.parametrize(
    ("text", "settings", "expected"),
    [
        (" \n\t\n", {}, "empty text: 0, no line has anything to see"),
        ("a.\n\nb\nc\nd", {"min_punctuated_lines": 0.5}, "punctuated lines: 0.25, at least 0.5 asked"),
        ("short\n" + "x" * 31, {"max_short_lines": 0.4}, "short lines: 0.5, at most 0.4 allowed"),
        ("ab\nab\ncd", {"max_duplicate_line_characters": 0.3}, TWICE),
        ("a\nb\nc d", {"max_line_feeds": 0.4}, "line feeds per word: 0.5, at most 0.4 allowed"),
    ],
)
def test_fineweb(text: str, settings: dict[str, Any], expected: str) -> None:
    assert rule("fineweb", text, **only("fineweb", **settings)) == f"fineweb: {expected}"


def test_c4_removes_lines_and_counts_them() -> None:
    lines = [
        "  This line is good.  ",
        "No end here",
        "Too short.",
        "It trails off like this...",
        "We need JavaScript for that.",
        "This site uses cookies, you know.",
        "x" * 1001 + " is a long word.",
        'A citation[1] is taken out[citation needed]."',
        "Three more sentences. Are they? They are!",
        "",
    ]
    kept, reason = run("c4", "\r\n".join(lines))
    assert reason is None and kept is not None
    assert kept.text.split("\n") == [
        "This line is good.",
        'A citation is taken out."',
        "Three more sentences. Are they? They are!",
    ]
    assert kept.id == sha256_text(kept.text)
    assert kept.meta["removed_lines"] == {
        "c4: no terminal punctuation": 2,
        "c4: few words": 1,
        "c4: javascript": 1,
        "c4: policy": 1,
        "c4: long word": 1,
    }


@pytest.mark.parametrize(
    ("text", "settings", "expected"),
    [
        ("One is here. Two is here.", {}, "c4: sentences: 2, at least 5 asked"),
        ("Lorem Ipsum dolor sit amet.\n" + PROSE, {}, "c4: lorem ipsum: a page without its text"),
        ("if (a) { return 1 }.", {}, "c4: curly bracket: code, not prose"),
        ("", {}, "c4: sentences: 0, at least 5 asked"),
        ("if (a) { return 1 }.", {"curly_bracket": False, "min_sentences": None}, None),
        ("No end here", {"terminal_punctuation": False, "min_sentences": 1}, None),
    ],
)
def test_c4_drops(text: str, settings: dict[str, Any], expected: str | None) -> None:
    assert rule("c4", text, **settings) == expected


def test_c4_leaves_a_clean_text_alone() -> None:
    kept, _ = run("c4", PROSE.strip(), min_sentences=1)
    assert kept is not None and kept.text == PROSE.strip() and "removed_lines" not in kept.meta


def test_c4_paragraphs() -> None:
    assert rule("c4_paragraphs", "\n".join(["x" * 200] * 3)) is None
    expected = "c4_paragraphs: long paragraphs: 2, at least 3 of 200 characters asked"
    assert rule("c4_paragraphs", "\n".join(["x" * 200] * 2 + ["x" * 199] * 9)) == expected


@given(st.text(alphabet="a\nb", max_size=60), st.integers(1, 8), st.integers(1, 4))
def test_long_lines_are_counted(text: str, characters: int, enough: int) -> None:
    long = sum(len(line) >= characters for line in text.split("\n"))
    assert count_long(text, characters, enough) == min(long, enough)


def test_refinedweb_lines() -> None:
    prose = [PROSE.strip()] * 20
    gone = ["FREE SHIPPING TODAY", "12345", "1,234 Likes!", "Home", "", "Sign-in Read more..."]
    cut = ["Go to checkout: 3 items in cart", "And so on Read More..."]
    kept, reason = run("refinedweb_lines", "\n".join([*prose[:10], *gone, *prose, *cut]))
    assert reason is None and kept is not None
    assert kept.text.split("\n") == [*prose[:10], "", *prose, "Go to checkout: 3", "And so on"]
    assert kept.meta["removed_lines"] == {
        "refinedweb_lines: upper case": 1,
        "refinedweb_lines: numeric": 1,
        "refinedweb_lines: counter": 1,
        "refinedweb_lines: few words": 1,
        "refinedweb_lines: button": 3,
    }
    found = rule("refinedweb_lines", "\n".join([*prose[:4], *["ONE TWO THREE FOUR"] * 4]))
    assert found == "refinedweb_lines: removed words: 0.2222, at most 0.05 allowed"
    assert rule("refinedweb_lines", "12\nHOME") == "refinedweb_lines: nothing left: every line was removed"
    assert rule("refinedweb_lines", " two words \n") is None


def test_removed_lines_of_two_filters_add_up() -> None:
    text = "\n".join([*[PROSE.strip()] * 20, "Home", "no end of line"])
    document, _ = run("refinedweb_lines", text)
    assert document is not None
    (kept,) = build({"name": "c4"})[1](iter([document]), lambda *_: pytest.fail("dropped"))
    assert kept.meta["removed_lines"] == {"refinedweb_lines: few words": 1, "c4: no terminal punctuation": 1}


def test_a_chain_cuts_a_text_into_words_once(monkeypatch: pytest.MonkeyPatch) -> None:
    segment.cache_clear()
    for name in ("gopher_repetition", "gopher_quality", "fineweb"):
        run(name, (PROSE * 3 + "\n\n") * 2, **({"max_top_runs": []} if name == "gopher_repetition" else {}))
    assert segment.cache_info().misses == 1


@given(st.text(max_size=200) | st.lists(st.sampled_from([PROSE, "\n", "a ", "- x\n", "…", "{"])).map("".join))
def test_every_text_is_kept_or_dropped_alike_on_both_paths(text: str) -> None:
    for name in HEURISTIC:
        fast = _verdict(name, text)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(native, "usable", lambda _: False)
            segment.cache_clear()
            assert _verdict(name, text) == fast
        segment.cache_clear()


def _verdict(name: str, text: str) -> tuple[str | None, str | None]:
    dropped: list[Reason] = []
    document = Document(text=text, id="", source="")
    texts = [
        kept.text for kept in build({"name": name})[1](iter([document]), lambda _, why: dropped.append(why))
    ]
    return (texts[0], None) if texts else (None, str(dropped[0]))


def test_all_are_found_by_name() -> None:
    assert {*HEURISTIC, "language"} <= set(names())
    with pytest.raises(ConfigError, match="min_words"):
        build({"name": "gopher_quality", "min_word": 3})
