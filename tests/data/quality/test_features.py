"""N-grams: the compiled counting against the plain one."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.data.quality import native
from modelwright.data.quality.features import buckets, tokens, vector

compiled = pytest.mark.skipif(native.library() is None, reason="nothing compiled on this machine")


def same(text: str, bits: int) -> None:
    found, counts = native.count_ngrams(text.lower(), bits)
    expected, how_often = np.unique(buckets(tokens(text), bits), return_counts=True)
    assert np.array_equal(found, expected) and np.array_equal(counts, how_often), (text[:80], bits)


@compiled
@settings(max_examples=400, deadline=None)
@given(
    st.text(st.characters(exclude_categories=())) | st.text("ab É_é.,'1²½٣ \n\0東ſİ\u0345\U0001f600"),
    st.integers(8, 24),
)
def test_any_text(text: str, bits: int) -> None:
    same(text, bits)


@compiled
def test_every_code_point_is_what_the_pattern_takes_it_for() -> None:
    table = native.classes()
    every = "".join(map(chr, range(0x110000)))
    words = np.zeros(len(every), bool)
    marks = np.zeros(len(every), bool)
    words[[match.start() for match in re.finditer(r"\w", every)]] = True
    marks[[match.start() for match in re.finditer(r"[^\w\s]", every)]] = True
    assert np.array_equal(table == 1, words[: len(table)]) and not words[len(table) :].any()
    assert np.array_equal(table == 2, marks[: len(table)]) and marks[len(table) :].all()


@compiled
def test_novels(shared_data: Path) -> None:
    for text in pq.read_table(shared_data / "litbank_novels" / "novels-00000.parquet")["text"].to_pylist()[
        :6
    ]:
        same(text, 18)
        same(text[:2000], 8)


@compiled
@pytest.mark.parametrize("text", ["", " ", "a", "a" * 100_000, "a b " * 5000, ".,;" * 5000])
def test_odd_sizes(text: str) -> None:
    same(text, 12)


def test_buckets_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = zlib.crc32(b"to"), zlib.crc32("thé".encode())
    mask = (1 << 64) - 1
    pair = (first * 0x9E3779B97F4A7C15 + second + 1) & mask
    expected = Counter((key * 0xD6E8FEB86659FD93 & mask) >> 52 for key in (first, first, second, pair))
    expected.update([((first * 0x9E3779B97F4A7C15 + first + 1) * 0xD6E8FEB86659FD93 & mask) >> 52])
    for _ in range(2):
        found, values = vector("To to thé", 12)
        assert found.tolist() == sorted(expected)
        sizes = np.log1p([expected[bucket] for bucket in found.tolist()])
        assert values == pytest.approx(sizes / np.linalg.norm(sizes))
        monkeypatch.setattr(native, "library", lambda: None)
