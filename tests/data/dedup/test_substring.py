from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelwright.base.files import sha256_text
from modelwright.base.schema import Document, Reason
from modelwright.data.dedup import native, substring
from modelwright.data.dedup.ranges import Ranges, Removal, Texts, merged, remove, snapped
from modelwright.data.dedup.substring import Config, repeated
from modelwright.data.dedup.suffix_array import common_prefixes, repeated_windows, suffix_array

SETTINGS = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def units_of(texts: Sequence[str], cuts: Sequence[int]) -> list[Texts]:
    edges = [0, *sorted(min(cut, len(texts)) for cut in cuts), len(texts)]
    return [Texts.of(texts[low:high]) for low, high in pairwise(edges)]


def by_suffix_array(units: Sequence[Texts], length: int) -> list[list[list[tuple[int, int]]]]:
    """The reference: for each unit, for each document, its ranges."""
    documents = [
        unit.content[a:b].tobytes()
        for unit in units
        for a, b in zip(unit.offsets, unit.offsets[1:], strict=False)
    ]
    whole = Texts.of([document.decode() for document in documents])
    places = repeated_windows(documents, length)
    rows = np.searchsorted(whole.offsets, places, side="right") - 1
    inside = places - whole.offsets[rows]
    ranges = snapped(merged(rows, inside, inside + length), whole)
    lists = iter([ranges.of(row) for row in range(len(whole))])
    return [[next(lists) for _ in range(len(unit))] for unit in units]


def lists_of(units: Sequence[Texts], config: Config, folder: Path) -> list[list[list[tuple[int, int]]]]:
    made = list(repeated(units, config, folder))
    assert list(folder.iterdir()) == []
    return [[ranges.of(row) for row in range(len(unit))] for unit, ranges in zip(units, made, strict=True)]


pieces = st.sampled_from(
    ["abcdefghijklmnop", "aaaaaaaaaaaaaaaaaaaaaaaa", "é\0x", "東京", "q" * 5, "zyx", "1"]
)
texts = st.lists(st.lists(pieces, max_size=12).map("".join), max_size=8)


@SETTINGS
@given(texts, st.lists(st.integers(0, 8), max_size=3), st.integers(16, 40), st.booleans())
def test_the_ranges_are_those_of_the_suffix_array(
    tmp_path: Path, texts: list[str], cuts: list[int], length: int, plain: bool
) -> None:
    units = units_of(texts, cuts)
    with pytest.MonkeyPatch.context() as patch:
        if plain:
            patch.setattr(native, "library", lambda: None)
        for memory_bytes in (1 << 16, 1 << 24):
            config = Config(min_bytes=length, memory_bytes=memory_bytes)
            assert lists_of(units, config, tmp_path) == by_suffix_array(units, length)


def made_texts(rng: random.Random, count: int = 60, alphabet: str = "abc é\n") -> tuple[list[str], int]:
    """Random texts with planted passages; how many bytes were planted a second time."""
    passages = ["".join(rng.choices(alphabet + "xyz", k=rng.randrange(101, 400))) for _ in range(12)]
    texts = []
    for _ in range(count):
        parts = ["".join(rng.choices(alphabet, k=rng.randrange(600))) for _ in range(3)]
        if rng.random() < 0.7:
            parts.insert(rng.randrange(4), rng.choice(passages))
        texts.append("".join(parts))
    return texts, sum(max(0, sum(p in t for t in texts) - 1) * len(p.encode()) for p in passages)


@pytest.mark.parametrize("memory_bytes", [1 << 16, 1 << 18, 1 << 28])
def test_planted_passages_are_all_found(path: str, tmp_path: Path, memory_bytes: int) -> None:
    texts, planted = made_texts(random.Random(2))
    units = units_of(texts, [7, 7, 30])
    found = lists_of(units, Config(memory_bytes=memory_bytes), tmp_path)
    assert found == by_suffix_array(units, 100)
    total = sum(end - start for unit in found for document in unit for start, end in document)
    assert planted > 2000 and total >= planted - 40 * 6  # a letter at an edge may be cut in half


def test_real_texts_with_planted_passages(shared_data: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(shared_data / "litbank_novels" / "novels-00000.parquet")
    novel = next(file.iter_batches(1, columns=["text"])).to_pylist()[0]["text"][:150_000]
    rng = random.Random(4)
    texts = [novel[start : start + 3000] for start in range(0, 120_000, 3000)]
    for _ in range(25):
        source, target = rng.sample(range(len(texts)), 2)
        at, to = rng.randrange(2000), rng.randrange(2000)
        texts[target] = texts[target][:to] + texts[source][at : at + 300] + texts[target][to:]
    units = units_of(texts, [13])
    found = lists_of(units, Config(), tmp_path)
    assert found == by_suffix_array(units, 100)
    assert sum(b - a for unit in found for document in unit for a, b in document) > 25 * 250


def test_hashes_only_sort(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With hashes of two bits nearly all windows collide, and the answer is the same."""
    real = substring.make_records

    def weak(keys: np.ndarray, positions: np.ndarray) -> np.ndarray:
        return real(keys & np.uint64(3), positions)

    texts, _ = made_texts(random.Random(3), count=15)
    units = units_of(texts, [4])
    monkeypatch.setattr(substring, "make_records", weak)
    for memory_bytes in (1 << 16, 1 << 28):
        config = Config(min_bytes=60, memory_bytes=memory_bytes)
        assert lists_of(units, config, tmp_path) == by_suffix_array(units, 60)


def test_the_first_copy_stays_whole(path: str, tmp_path: Path) -> None:
    passage = "".join(random.Random(9).choices("abcdefgh ", k=150))
    units = units_of([passage, "1" + passage + "2", "a" * 500, passage[:99]], [1])
    assert lists_of(units, Config(), tmp_path) == [[[]], [[(1, 151)], [(100, 500)], []]]


def test_no_window_reaches_over_the_end_of_a_document(path: str, tmp_path: Path) -> None:
    text = "".join(random.Random(9).choices("abcdefgh ", k=200))
    units = units_of([text, text[:99], text[99:198], "", "x", text[:100]], [])
    assert lists_of(units, Config(), tmp_path) == [[[], [], [], [], [], [(0, 100)]]]


def test_nothing_at_all(path: str, tmp_path: Path) -> None:
    assert lists_of([], Config(), tmp_path) == []
    assert lists_of(units_of(["", "x", ""], [1, 1]), Config(), tmp_path) == [[[]], [], [[], []]]


def test_one_long_line_in_little_memory(tmp_path: Path) -> None:
    if native.library() is None:
        pytest.skip("no compiler here")
    random_part = np.random.default_rng(0).integers(97, 123, 300_000).astype(np.uint8).tobytes().decode()
    units = units_of(["a" * 50_000 + random_part, random_part + "\0" * 1000], [1])
    found = lists_of(units, Config(memory_bytes=1 << 20), tmp_path)
    assert found == [[[(100, 50_000)]], [[(0, 300_000), (300_100, 301_000)]]]


def test_suffix_arrays_sort_suffixes() -> None:
    for text in (b"", b"a", b"banana", b"mississippi" * 5, bytes(64), bytes(range(256))):
        order, levels = suffix_array(np.frombuffer(text, np.uint8).astype(np.int64))
        suffixes = sorted(range(len(text)), key=lambda i: text[i:])
        assert order.tolist() == suffixes
        lcp = common_prefixes(order, levels).tolist()
        for shared, one, other in zip(lcp, suffixes, suffixes[1:], strict=False):
            a, b = text[one:], text[other:]
            assert a[:shared] == b[:shared] and a[shared : shared + 1] != b[shared : shared + 1]


def test_ranges_snap_inwards() -> None:
    texts = Texts.of(["aé東👍b", "é"])
    every = [(a, b) for a in range(11) for b in range(a, 12)]
    content = texts.content[:11].tobytes()
    for a, b in every[: 11 * 6]:
        b = min(b, 11)
        made = snapped(Ranges(np.array([0]), np.array([a]), np.array([b])), texts).of(0)
        whole = [i for i in range(12) if i == 11 or (content[i] & 0xC0) != 0x80]
        low = min((i for i in whole if i >= a), default=11)
        high = max((i for i in whole if i <= b), default=0)
        assert made == ([(low, high)] if low < high else [])
        rest = content[:low] + content[high:] if low < high else content
        rest.decode()


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30), st.integers(1, 9)), max_size=20))
def test_merged_ranges_cover_the_same(ranges: list[tuple[int, int, int]]) -> None:
    rows = np.array(ranges, np.int64).reshape(-1, 3)
    made = merged(rows[:, 0], rows[:, 1], rows[:, 1] + rows[:, 2])
    for document in range(4):
        covered = {i for d, start, size in ranges if d == document for i in range(start, start + size)}
        found = made.of(document)
        assert {i for start, end in found for i in range(start, end)} == covered
        assert all(one[1] < other[0] for one, other in pairwise(found))


def test_what_happens_to_a_document() -> None:
    text = "0123456789é"
    document = Document(text=text, id=sha256_text(text), source="a")
    assert remove(document, [], Removal(drop_above=0)) is document
    cut = remove(document, [(2, 5), (10, 12)], Removal())
    assert isinstance(cut, Document) and (cut.text, cut.id) == ("0156789", sha256_text("0156789"))
    gone = remove(document, [(2, 8)], Removal(drop_above=0.4))
    assert isinstance(gone, Reason) and str(gone) == (
        "repeated text: 0.5, at most 0.4 of it may stand elsewhere"
    )
    assert remove(document, [(2, 8)], Removal(drop_above=0.5, cut=False)) is document
    assert isinstance(remove(document, [(0, 12)], Removal()), Reason)
