"""Sorts more records than memory holds: runs sorted in memory, written down, and merged (Knuth, volume 3).

A merge takes whatever sizes the groups of equal keys have, where hash buckets would overflow on a text
that stands in the corpus a billion times.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Records = NDArray[np.void]
"""Structured records, of a dtype with the field `key` (uint64) to sort by."""

RECORD = np.dtype([("key", "<u8"), ("position", "<u8")])
"""A hash, and where in the corpus it was met."""

_COPIES = 4
"""Records in memory while a run is sorted: what was added, joined, its keys and order, and sorted."""

_FAN_IN = 16
"""Files that are merged at once."""

_MIN_BLOCK = 256
"""Records of a run that are read at once, at least."""


def make_records(keys: NDArray[np.uint64], positions: NDArray[np.uint64] | NDArray[np.int64]) -> Records:
    """Records of dtype RECORD from two arrays of one length."""
    records = np.empty(len(keys), RECORD)
    records["key"], records["position"] = keys, positions
    return records


class Sorter:
    """Takes records in any order, gives them back by key; equal keys stay in the order of adding.

    `folder` must exist; runs are written to it when the records need more than `memory_bytes`, and are
    removed on leaving the `with` block.
    """

    def __init__(self, folder: Path, memory_bytes: int, dtype: np.dtype[Any] = RECORD) -> None:
        self._folder, self._dtype = Path(folder), dtype
        self._capacity = max(memory_bytes // (_COPIES * dtype.itemsize), _MIN_BLOCK)
        self._waiting: list[Records] = []
        self._num_waiting = 0
        self._runs: list[Path] = []

    def __enter__(self) -> Sorter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiting = []
        for run in self._runs:
            run.unlink(missing_ok=True)

    def add(self, records: Records) -> None:
        """Take records; the array must not be changed afterwards."""
        while len(records):
            part = records[: self._capacity - self._num_waiting]
            records = records[len(part) :]
            self._waiting.append(part)
            self._num_waiting += len(part)
            if self._num_waiting >= self._capacity:
                self._write_run()

    def blocks(self) -> Iterator[Records]:
        """All records in order, in blocks of bounded size; a group of equal keys may span blocks."""
        if not self._runs:
            if self._num_waiting:
                yield self._sorted()
            return
        if self._num_waiting:
            self._write_run()
        while len(self._runs) > _FAN_IN:
            self._runs = [
                self._merge_runs(self._runs[start : start + _FAN_IN])
                for start in range(0, len(self._runs), _FAN_IN)
            ]
        yield from self._merged(self._runs)

    def _merge_runs(self, runs: list[Path]) -> Path:
        """Neighbouring runs into one file, so that a merge reads from few files in large blocks."""
        path = runs[0].with_suffix(".merged")
        with open(path, "wb") as file:
            for block in self._merged(runs):
                block.tofile(file)
        for run in runs:
            run.unlink()
        return path.rename(runs[0])

    def _merged(self, runs: list[Path]) -> Iterator[Records]:
        size = max(self._capacity // len(runs), _MIN_BLOCK)
        return _merge([_Run(path, self._dtype, size) for path in runs])

    def _sorted(self) -> Records:
        records = self._waiting[0] if len(self._waiting) == 1 else np.concatenate(self._waiting)
        self._waiting, self._num_waiting = [], 0
        return _by_key(records)

    def _write_run(self) -> None:
        path = self._folder / f"{id(self):x}-{len(self._runs):06d}.run"
        self._runs.append(path)
        self._sorted().tofile(path)


class _Run:
    """A sorted file, of which a block at a time is in memory."""

    def __init__(self, path: Path, dtype: np.dtype[Any], size: int) -> None:
        self._path, self._dtype, self._size = path, dtype, size
        self._next = 0
        self._total = path.stat().st_size // dtype.itemsize
        self.block = np.empty(0, dtype)
        self.refill()

    def refill(self) -> None:
        """Read on where the block is used up; it is empty at the end of the run."""
        if len(self.block) == 0 and self._next < self._total:
            offset = self._next * self._dtype.itemsize
            self.block = np.fromfile(self._path, self._dtype, self._size, offset=offset)
            self._next += len(self.block)

    @property
    def has_more(self) -> bool:
        """Whether records follow that are not in memory yet."""
        return self._next < self._total

    def take(self, end: int) -> Records:
        """Remove the first `end` records from the block."""
        taken, self.block = self.block[:end], self.block[end:]
        self.refill()
        return taken


def _merge(runs: list[_Run]) -> Iterator[Records]:
    """What is at most the smallest of the last keys in memory cannot be preceded by anything on disk; except
    that, once a run has more of just that key on disk, those in later runs have to wait."""
    while runs := [run for run in runs if len(run.block)]:
        lasts = [run.block["key"][-1] for run in runs if run.has_more]
        bound = min(lasts) if lasts else None
        taken: list[Records] = []
        side: Literal["left", "right"] = "right"
        for run in runs:
            keys = run.block["key"]
            may_go_on = run.has_more and keys[-1] == bound
            taken.append(run.take(len(keys) if bound is None else int(np.searchsorted(keys, bound, side))))
            side = "left" if may_go_on else side
        yield _by_key(np.concatenate(taken))


def _by_key(records: Records) -> Records:
    return records[np.argsort(np.ascontiguousarray(records["key"]), kind="stable")]


@dataclass(frozen=True, slots=True)
class Ranked:
    """A sorted block, and for each record where it stands in its group of equal keys over all blocks."""

    records: Records
    first: NDArray[np.uint64]
    """The position of the group's first record."""
    rank: NDArray[np.int64]
    """How many records of the group came before."""


def ranked(blocks: Iterator[Records]) -> Iterator[Ranked]:
    """Each sorted block with its groups; what is known of its last group goes on to the next block."""
    last_key, last_first, last_count = -1, 0, 0
    for block in blocks:
        keys = np.ascontiguousarray(block["key"])
        begins = np.concatenate([[True], keys[1:] != keys[:-1]])
        heads, group = np.flatnonzero(begins), np.cumsum(begins) - 1
        firsts, before = block["position"][heads].copy(), np.zeros(len(heads), np.int64)
        if int(keys[0]) == last_key:
            firsts[0], before[0] = last_first, last_count
        found = Ranked(block, firsts[group], np.arange(len(keys)) - (heads - before)[group])
        yield found
        last_key, last_first, last_count = int(keys[-1]), int(found.first[-1]), int(found.rank[-1]) + 1
