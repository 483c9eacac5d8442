from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.base.files import sha256_text
from modelwright.data.dedup.exact import first_places, keep_first, text_hash


def hashes(texts: list[str], normalised: bool = False) -> np.ndarray:
    joined = b"".join(text_hash(text, normalised) for text in texts)
    return np.frombuffer(joined, np.uint8).reshape(-1, 16)


def kept(texts: list[str], cuts: list[int], memory_bytes: int) -> list[bool]:
    units = np.split(hashes(texts), sorted(min(cut, len(texts)) for cut in cuts))
    found = list(keep_first(units, memory_bytes))
    assert [len(mask) for mask in found] == [len(unit) for unit in units]
    return np.concatenate(found).tolist()


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.text("abé\0", max_size=2), max_size=60),
    st.lists(st.integers(0, 60), max_size=4),
    st.sampled_from([1, 1 << 20]),
)
def test_the_first_stays(texts: list[str], cuts: list[int], memory_bytes: int) -> None:
    assert kept(texts, cuts, memory_bytes) == [text not in texts[:row] for row, text in enumerate(texts)]


def test_memory_and_units_change_nothing() -> None:
    texts = [str(number % 700) for number in range(5000)]
    wanted = [row < 700 for row in range(5000)]
    for memory_bytes in (1, 1 << 16, 1 << 28):
        assert kept(texts, [], memory_bytes) == wanted
        assert kept(texts, [1, 1, 2500, 4999], memory_bytes) == wanted


def test_all_sixteen_bytes_count(tmp_path: Path) -> None:
    unit = np.zeros((4000, 16), np.uint8)
    unit[:, 8:10] = np.random.default_rng(0).integers(0, 3, (4000, 2))
    wanted = [tuple(row) not in {tuple(r) for r in unit[:i]} for i, row in enumerate(unit[:300])]
    (mask,) = keep_first([unit], 1 << 24, tmp_path)
    assert mask[:300].tolist() == wanted
    for memory_bytes in (1, 1 << 14):  # a group of one key in many blocks
        (other,) = keep_first([unit], memory_bytes, tmp_path)
        assert np.array_equal(mask, other)
    assert list(tmp_path.iterdir()) == []


def test_memory_mapped_units(tmp_path: Path) -> None:
    np.save(tmp_path / "unit.npy", hashes(["a", "b", "a"]))
    unit = np.load(tmp_path / "unit.npy", mmap_mode="r")
    assert [mask.tolist() for mask in keep_first([unit, unit])] == [[True, True, False], [False] * 3]
    assert list(keep_first([])) == []


def test_hashes_begin_the_id_and_may_be_of_words_only() -> None:
    assert sha256_text("Hé").startswith(text_hash("Hé").hex())
    assert text_hash("The  End, 1984!\n", normalised=True) == text_hash("the énd: 2001", normalised=True)
    assert text_hash("the end", normalised=True) != text_hash("theend", normalised=True)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from("abcdef"), max_size=60), st.sampled_from([1, 1 << 20]))
def test_every_copy_leads_to_the_first(texts: list[str], memory_bytes: int) -> None:
    units = np.split(hashes(texts), [min(7, len(texts)), min(30, len(texts))])
    found = np.concatenate([*first_places(units, memory_bytes), np.empty(0, np.int64)])
    assert found.tolist() == [texts.index(text) for text in texts]
