from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.words.texts import texts

from modelwright.data.words import native, plain
from modelwright.data.words.measures import duplicates, measure_repeats, measure_words
from modelwright.data.words.segment import Segmentation, segment

STOP = ("the", "be", "to", "中", "")


def plainly(text: str, language: str = "en") -> Segmentation:
    return Segmentation(text, None, np.array(plain.words(text, language), np.int32).reshape(-1, 2))


def both(text: str) -> list[Segmentation]:
    return [plainly(text), segment(text)]


def test_words() -> None:
    for text in both("The cat, to be 12 ... and – the « end » the"):
        found = measure_words(text, ("the", "to", "of", "be", "The"))
        assert (found.words, found.characters) == (9, 24)
        assert (found.alphabetic, found.stop_words) == (8, 4)


def test_repeats() -> None:
    for text in both("a b a b c a b"):
        found = measure_repeats(text, (1, 2, 3, 8), (1, 2, 7, 8))
        assert found.top == (3, 9, 5, None)  # "a" three times, "a b" three times, "a b a" before others, none
        assert found.repeated == (4, 4, 0, 0)


def test_runs_are_equal_if_their_letters_are() -> None:
    for text in both("over do , o verdo"):
        assert measure_repeats(text, (), (2,)).repeated == (6,)
    for text in both("ab c a bc"):
        assert measure_repeats(text, (2,), (2,)) == measure_repeats(text, (2,), (2,))
        assert measure_repeats(text, (), (2,)).repeated == (3,)
        assert measure_repeats(text, (2,), ()).top == (4,)


def test_a_text_without_words() -> None:
    for text in both(" \n "):
        assert measure_words(text, STOP).words == 0
        assert measure_repeats(text, (2,), (5,)).top == (None,)
        assert measure_repeats(text, (2,), (5,)).repeated == (0,)


repetitive = st.lists(
    st.sampled_from(["a", "b", "ab", "can't", ",", "the", "中", "x" * 50]), max_size=60
).map(" ".join)


@pytest.mark.skipif(not native.usable(""), reason="nothing compiled on this machine")
@settings(max_examples=200)
@given(st.one_of(texts, repetitive))
def test_compiled_and_plain_are_the_same(text: str) -> None:
    slow, fast = both(text)
    assert measure_words(slow, STOP) == measure_words(fast, STOP)
    sizes = (1, 2, 3, 5, 10)
    assert measure_repeats(slow, sizes, sizes) == measure_repeats(fast, sizes, sizes)


def test_duplicates() -> None:
    assert duplicates(["a", "bc", "a", "bc", "bc", ""]) == (3, 5)
    assert duplicates([]) == (0, 0)
