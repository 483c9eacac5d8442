from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelwright.tokenizer.fertility import Inequality, Meter, gini
from modelwright.tokenizer.learn import learn


def test_texts_are_measured_as_counted_by_hand() -> None:
    tokenizer = learn(["word word word 漢"], 262)
    meter = Meter(tokenizer)
    found = meter.measure(["word 漢", "ab"])
    ids = tokenizer.encode("word 漢") + tokenizer.encode("ab")
    assert (found.tokens, found.characters, found.words, found.bytes) == (len(ids), 8, 3, 10)
    assert found.broken_bytes == 3  # the three bytes of 漢, spelled out
    assert found.coverage == pytest.approx(0.7)
    assert found.bytes_per_token == pytest.approx(10 / len(ids))
    assert meter.unused == tokenizer.vocab_size - 3 - len(set(ids))
    assert meter.occurrences.sum() == len(ids)


def test_nothing_is_no_division_by_zero() -> None:
    found = Meter(learn([], 259)).measure([])
    assert (found.tokens_per_word, found.bytes_per_token, found.coverage) == (0.0, 0.0, 1.0)


def test_inequality() -> None:
    found = Inequality.of({"eng": 100, "deu": 150, "tha": 600}, "eng")
    assert found.premium == {"eng": 1.0, "deu": 1.5, "tha": 6.0}
    assert found.worst_over_median == 4.0
    assert found.gini == pytest.approx(2 * (100 + 2 * 150 + 3 * 600) / (3 * 850) - 4 / 3)


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=30))
def test_gini_is_a_share_that_scale_does_not_change(values: list[int]) -> None:
    assert -1e-9 <= gini(values) < 1
    assert gini([7 * value for value in values]) == pytest.approx(gini(values))
    assert gini([5] * len(values)) == pytest.approx(0)
