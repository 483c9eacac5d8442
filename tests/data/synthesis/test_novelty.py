"""Novelty by ROUGE-L: the quick way against the definition."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.data.synthesis.novelty import Near, Novelty, common_subsequence, rouge_l, words_of

WORDS = st.lists(st.sampled_from(["a", "b", "c", "d", "e", "f"]), max_size=14)


def table(left: Sequence[str], right: Sequence[str]) -> int:
    """The longest common subsequence by the table of the textbooks."""
    row = [0] * (len(right) + 1)
    for word in left:
        before = row[:]
        for place, other in enumerate(right, 1):
            row[place] = before[place - 1] + 1 if word == other else max(before[place], row[place - 1])
    return row[-1]


@given(WORDS, WORDS)
def test_the_common_subsequence_is_that_of_the_table(left: list[str], right: list[str]) -> None:
    assert common_subsequence(left, right) == table(left, right)
    assert rouge_l(left, right) == rouge_l(right, left)


@settings(deadline=None)  # the table of letters is made at the first text
@given(st.lists(WORDS, max_size=12), WORDS)
def test_the_nearest_is_the_first_of_the_most_alike(texts: list[list[str]], asked: list[str]) -> None:
    novelty = Novelty()
    for text in texts:
        novelty.add(" ".join(text))
    likeness = [rouge_l(asked, text) for text in texts]
    best = max(likeness, default=0.0)
    expected = Near(likeness.index(best), best) if best else Near(-1, 0.0)
    assert novelty.nearest(" ".join(asked)) == expected


def test_figures_of_the_definition() -> None:
    """police killed the gunman / police kill the gunman: three of four words (Lin 2004, section 3.2)."""
    one, other = words_of("Police killed the gunman"), words_of("police kill the gunman!")
    assert rouge_l(one, other) == pytest.approx(0.75)
    assert rouge_l(one, words_of("the gunman kill police")) == pytest.approx(0.5)
    assert rouge_l(one, []) == 0


def test_digits_count_and_case_does_not() -> None:
    novelty = Novelty()
    novelty.add("What is 17 plus 25?")
    assert novelty.nearest("WHAT IS 17 PLUS 25").likeness == 1
    assert novelty.nearest("What is 17 plus 26?").likeness == pytest.approx(0.8)


def test_long_texts_are_compared_by_their_beginning() -> None:
    assert len(words_of("word " * 100_000)) == 512
