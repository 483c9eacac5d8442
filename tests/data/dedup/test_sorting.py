from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelwright.data.dedup.sorting import Sorter, make_records, ranked

SETTINGS = settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@SETTINGS
@given(st.integers(0, 6000), st.integers(1, 2000), st.integers(0, 9))
def test_sorts_on_disk_as_in_memory(tmp_path: Path, count: int, kinds: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    keys = random.integers(0, kinds, count).astype(np.uint64) * np.uint64(1 << 60)
    order = np.argsort(keys, kind="stable")
    with Sorter(tmp_path, memory_bytes=1) as sorter:
        for start in range(0, count, 777):
            part = np.arange(start, min(start + 777, count))
            sorter.add(make_records(keys[part], part))
        assert len(list(tmp_path.iterdir())) == count // 256
        found = list(ranked(sorter.blocks()))
    assert list(tmp_path.iterdir()) == []
    if count:
        records = np.concatenate([block.records for block in found])
        assert np.array_equal(records["key"], keys[order])
        assert np.array_equal(records["position"], order)
        first = {int(key): int(np.flatnonzero(keys == key)[0]) for key in np.unique(keys)}
        firsts = np.concatenate([block.first for block in found])
        assert firsts.tolist() == [first[int(key)] for key in records["key"]]
        rank = np.concatenate([block.rank for block in found])
        assert [int(r) for r in rank if r == 0] == [0] * len(first)
        for key in first:
            assert rank[records["key"] == key].tolist() == list(range(int(np.sum(keys == key))))


def test_a_group_larger_than_memory_comes_in_bounded_blocks(tmp_path: Path) -> None:
    with Sorter(tmp_path, memory_bytes=1 << 16) as sorter:
        sorter.add(make_records(np.full(20_000, 7, np.uint64), np.arange(20_000)))
        blocks = list(sorter.blocks())
    assert sum(map(len, blocks)) == 20_000
    assert max(map(len, blocks)) <= 16 * 256


def test_runs_are_removed_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), Sorter(tmp_path, memory_bytes=1) as sorter:
        sorter.add(make_records(np.zeros(1000, np.uint64), np.arange(1000)))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
