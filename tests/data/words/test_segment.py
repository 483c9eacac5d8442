from __future__ import annotations

import random
import warnings
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.words.texts import HARD, MARKS, texts

from modelwright.data.words import native, plain
from modelwright.data.words.segment import Segmentation, count_sentences, segment, sentences, words

compiled = pytest.mark.skipif(not native.usable(""), reason="nothing compiled on this machine")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't panic!", "Do n't panic !"),
        ("He said: “I'll go.”", "He said : “ I 'll go . ”"),
        ("the U.S. (or N.Y.) costs $5.50, not 10km", "the U.S. ( or N.Y. ) costs $ 5.50 , not 10 km"),
        ("well-known and/or so-called e.g. this", "well - known and/or so - called e.g. this"),
        ("wait...what? see http://a.example.com/x?y=1.", "wait ... what ? see http://a.example.com/x?y=1 ."),
        ("end.Next a,b c=d 3-4 x--y", "end . Next a , b c = d 3 - 4 x -- y"),
        ("and—Mr. Brown :-) 😀😀", "and — Mr. Brown :-) 😀 😀"),
        ("\t a\u00a0b\n\n", "a b"),
        ("", ""),
    ],
)
def test_words(text: str, expected: str) -> None:
    assert words(text) == expected.split()
    assert [text[start:end] for start, end in plain.words(text, "en")] == expected.split()


def test_letters_of_scripts_without_spaces() -> None:
    assert words("東京 is Tokyo", "ja") == ["東", "京", "is", "Tokyo"]
    assert words("東京 is Tokyo") == ["東京", "is", "Tokyo"]
    assert words("abc中de。", "zh") == ["abc", "中", "de", "。"]
    assert words("ที่นี่", "th") == ["ที่", "นี่"]  # marks stay with their letter
    assert words("don't", "fr") == ["don't"]


def test_sentences() -> None:
    text = "He came. (Did he?) She said... Mr. Smith left!  Why?\n\n“So.”"
    expected = ["He came. (", "Did he?)", " She said... Mr. Smith left!", "  Why?", "\n\n“So.”"]
    assert sentences(text) == expected  # an opening bracket is punctuation, and so goes with the earlier one
    assert sentences("") == [""]
    assert count_sentences(["One. Two.", "Three", "", "Four? Five!"]) == 6
    assert count_sentences([]) == 0


@compiled
@settings(max_examples=300)
@given(texts, st.sampled_from(["en", "zh"]))
def test_compiled_and_plain_are_the_same(text: str, language: str) -> None:
    codes = native.codes_of(text)
    assert [tuple(span) for span in native.find_words(codes, language).tolist()] == plain.words(
        text, language
    )
    assert native.find_sentences(codes, language).tolist() == plain.sentence_ends(text, language)
    lines = text.split("\n")
    assert native.count_sentences(codes, language) == sum(
        len(plain.sentence_ends(line, language)) for line in lines
    )


@given(texts, st.sampled_from(["en", "zh"]))
def test_words_are_all_of_the_text_but_white_space(text: str, language: str) -> None:
    found = segment(text, language)
    assert "".join(found.words()) == "".join(text.split())
    assert all(start < end for start, end in found.spans.tolist())
    assert all(first[1] <= second[0] for first, second in pairwise(found.spans.tolist()))
    assert "".join(sentences(text, language)) == text


@compiled
@pytest.mark.parametrize(
    "text",
    [
        "(" * 200_000,
        "." * 200_000,
        "a." * 100_000,
        "…" * 100_001,
        "'s" * 50_000,
        "@" * 100_000,
        "a" * 300_000,
    ],
)
def test_long_chunks(text: str) -> None:
    """One chunk of 200 kB: every step is linear in it, and the room for the words is asked for twice."""
    assert "".join(words(text)) == text


def test_long_chunks_in_plain_python() -> None:
    for piece in ("(", ".", "a.", "'s", "a@", "Mr.", "-", "中"):
        found = plain.words(piece * 5_001, "en")
        assert found[0][0] == 0 and found[-1][1] == 5_001 * len(piece)


def test_threads_may_cut_texts_at_the_same_time() -> None:
    every = [f"It's no. {number}, isn't it? " * 200 for number in range(40)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(words, every)) == [words(text) for text in every]


def test_the_plain_path_is_taken_where_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_library", lambda _: None)
    text = "Nothing is compiled here, isn't it?"
    found = segment.__wrapped__(text)
    assert isinstance(found, Segmentation) and found.codes is None and found.spans.dtype == np.int32
    assert found.words() == ["Nothing", "is", "compiled", "here", ",", "is", "n't", "it", "?"]
    assert sentences("Ah. Be") == ["Ah.", " Be"] and count_sentences(["Ah. Be"]) == 2
    assert segment.__wrapped__("").spans.shape == (0, 2)


@pytest.mark.filterwarnings("ignore")
def test_the_same_words_and_sentences_as_spacy() -> None:
    text_utils = pytest.importorskip("datatrove.utils.text", reason="datatrove is not installed")
    pytest.importorskip("spacy", reason="spaCy is not installed")
    draw = random.Random(0)
    pieces = [piece for piece in (*HARD, *MARKS * 3) if piece not in ("\ud800", "ไทย", "\u0301")]
    for _ in range(800):
        text = "".join(draw.choices([*pieces, " ", " ", " "], k=draw.randint(1, 40)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = text_utils.split_into_words(text), text_utils.split_into_sentences(text)
        assert (words(text), sentences(text)) == theirs, text
