from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelwright.data.dedup import native
from modelwright.data.dedup.cluster import Clusters, Config, cluster, estimated
from modelwright.data.dedup.minhash import NOTHING, band_keys, signatures
from modelwright.data.dedup.minhash import Config as MinHash
from modelwright.data.dedup.report import Example, Largest, report

SETTINGS = settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def components(keys: np.ndarray) -> list[int]:
    """The plain truth: the first document of each one's connected component."""
    first = list(range(len(keys)))
    for band in range(keys.shape[1] if len(keys) else 0):
        for row in range(len(keys)):
            for other in range(row):
                if keys[row, band] == keys[other, band] != NOTHING:
                    low, high = sorted((first[row], first[other]))
                    first = [low if value == high else value for value in first]
    return first


@SETTINGS
@given(
    st.integers(0, 40),
    st.integers(1, 3),
    st.integers(1, 60),
    st.integers(0, 99),
    st.lists(st.integers(0, 40)),
    st.booleans(),
)
def test_clusters_are_connected_components(
    tmp_path: Path, count: int, bands: int, kinds: int, seed: int, cuts: list[int], plain: bool
) -> None:
    keys = np.random.default_rng(seed).integers(0, kinds, (count, bands)).astype(np.uint64)
    keys[keys == 0] = NOTHING
    units = np.split(keys, sorted(min(cut, count) for cut in cuts))
    with pytest.MonkeyPatch.context() as patch:
        if plain:
            patch.setattr(native, "library", lambda: None)
        found = cluster(units, Config(), tmp_path)
    wanted = components(keys)
    assert found.parent.tolist() == wanted
    kept = np.concatenate(list(found.masks([len(unit) for unit in units])))
    assert kept.tolist() == [value == row for row, value in enumerate(wanted)]


def test_a_hundred_thousand_times_the_same(path: str, tmp_path: Path) -> None:
    count = 100_000 if path == "compiled" else 10_000
    keys = np.full((count, 14), 5, np.uint64)
    for config in (Config(), Config(memory_bytes=1 << 16)):
        found = cluster([keys[: count // 2], keys[count // 2 :]], config, tmp_path)
        assert not found.parent.any()
    made = report(found, lambda row: (f"{row}", "s", "t" * 999), examples=3)
    examples = tuple(Example(str(row), "s", "t" * 200) for row in range(3))
    assert made.largest == (Largest(count, examples),)
    assert (made.documents, made.clusters, made.duplicates) == (count, 1, count - 1)
    keys = keys[:10_000]
    found = cluster([keys], Config(min_similarity=0.9), tmp_path, estimated([keys]))
    assert not found.parent.any()


def test_a_chain_of_any_length(path: str, tmp_path: Path) -> None:
    """Each document shares a key with the next one only: one cluster, found in linear time."""
    count = 10_000
    keys = np.stack([np.arange(count) // 2, (np.arange(count) + 1) // 2], axis=1).astype(np.uint64)
    for memory_bytes in (1 << 16, 1 << 28):
        assert not cluster([keys], Config(memory_bytes=memory_bytes), tmp_path).parent.any()
    backwards = Clusters(count, tmp_path, 1 << 28)
    places = np.arange(count - 1)[::-1]
    backwards.unite(places, places + 1)
    backwards.flatten()
    assert not backwards.parent.any()


def test_candidates_that_are_not_alike_stay_apart(path: str, tmp_path: Path) -> None:
    """All meet in one band; 0, 2 and 4 are alike, so are 1 and 3, and 5 is like none."""
    keys = np.full((6, 1), 9, np.uint64)
    kind = np.array([0, 1, 0, 1, 0, 2])

    def similarity(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return np.where(kind[left] == kind[right], 0.8, 0.3)

    def parents(least: float) -> list[int]:
        return cluster([keys], Config(min_similarity=least), tmp_path, similarity).parent.tolist()

    assert parents(0.8) == [0, 1, 0, 1, 0, 5]
    assert parents(0.3) == [0] * 6
    assert parents(0.9) == [0, 1, 2, 3, 4, 5]
    assert cluster([keys], Config(), tmp_path).parent.tolist() == [0] * 6


def test_verified_by_signatures_over_units(tmp_path: Path) -> None:
    words = ["".join("abcdefghij"[int(digit)] for digit in str(number)) for number in range(400)]
    texts = [" ".join(words), " ".join(words[:390]), " ".join(words[:60]), " ".join(words[::-1]), ""]
    config = MinHash(rows=1, bands=32)
    made = signatures(texts, config)
    keys = band_keys(made, config)
    units = [keys[:2], keys[2:2], keys[2:]]
    signed = estimated([made[:2], made[2:2], made[2:]], memory_bytes=1)
    found = cluster(units, Config(min_similarity=0.6), tmp_path, signed)
    assert found.parent.tolist() == [0, 0, 2, 3, 4]
    assert cluster(units, Config(), tmp_path).parent.tolist() == [0, 0, 0, 3, 4]


def test_the_report(tmp_path: Path) -> None:
    keys = np.array([[1], [2], [1], [3], [2], [1], [4], [1], [5]], np.uint64)
    texts = [f"text {row} " + "x" * 300 for row in range(9)]
    for memory_bytes in (1 << 16, 1 << 28):
        found = cluster([keys], Config(memory_bytes=memory_bytes), tmp_path)
        made = report(found, lambda row: (f"id{row}", "s", texts[row]), largest=1, examples=2)
        assert (made.documents, made.clusters, made.duplicates) == (9, 2, 4)
        assert made.histogram == ((2, 1), (4, 1))
        assert made.largest == (
            Largest(4, (Example("id0", "s", texts[0][:200]), Example("id2", "s", texts[2][:200]))),
        )
    nothing = report(cluster([], Config(), tmp_path), lambda row: ("", "", ""))
    assert (nothing.documents, nothing.clusters, nothing.largest) == (0, 0, ())
