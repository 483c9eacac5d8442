"""From band keys of a whole corpus to clusters of near duplicates, of which the first document stays.

Documents that share a band's key are candidates; they are compared with the first of those that share it, and
united if alike enough. Clusters are what hangs together (connected components), so two texts of a cluster
need not be alike themselves: report.py shows how large clusters become, and what is in them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from modelwright.base import config
from modelwright.data.dedup import native
from modelwright.data.dedup.arrays import new_raw
from modelwright.data.dedup.exact import MEMORY_BYTES
from modelwright.data.dedup.hashing import Hashes, Integers
from modelwright.data.dedup.minhash import NOTHING, estimated_jaccard
from modelwright.data.dedup.sorting import Sorter, make_records, ranked

Similarity = Callable[[Integers, Integers], NDArray[np.float64]]
"""How alike pairs of documents are: (pairs,) and (pairs,) places in the corpus -> (pairs,) in [0, 1]."""

MAX_LEADERS = 16
"""How many documents of a group of one key the others are compared with, at most. Groups that need more are
chance meetings of unlike texts, and comparing all with all would take the square of their size."""


class Config(config.Config):
    """When candidates are duplicates."""

    min_similarity: float = Field(default=0.0, ge=0, le=1)
    """Candidates below this likeness are left apart; 0 unites all candidates, as FineWeb does."""
    memory_bytes: int = Field(default=MEMORY_BYTES, ge=1 << 16)
    """What sorting takes in memory; the rest goes to disk."""


class Clusters:
    """A cluster for each document of the corpus: the place of its first document.

    Eight bytes a document, in a memory-mapped file where that is more than the memory allowed.
    """

    def __init__(self, documents: int, folder: Path, memory_bytes: int) -> None:
        self._rows = max(memory_bytes // 64, 1)
        self._memory_bytes, self._folder = memory_bytes, Path(folder)
        self.parent = self.make_array(documents, "clusters")
        for rows in self.slices():
            self.parent[rows] = np.arange(rows.start, rows.stop)

    def make_array(self, size: int, name: str) -> Integers:
        """(size,) zeros, in memory or in a file of this name."""
        if size * 8 <= self._memory_bytes:
            return np.zeros(size, np.int64)
        return new_raw(self._folder / f"{name}.int64", np.int64, size)

    def slices(self) -> Iterator[slice]:
        """The rows of all documents, in parts that memory holds."""
        for start in range(0, len(self.parent), self._rows):
            yield slice(start, min(start + self._rows, len(self.parent)))

    def unite(self, left: Integers, right: Integers) -> None:
        """Make one cluster of those of left[i] and right[i], for every i."""
        if native.library() is not None:
            pairs = [np.ascontiguousarray(side, np.int64) for side in (left, right)]
            native.call("unite", self.parent, *pairs, len(left))
            return
        for one, other in zip(left.tolist(), right.tolist(), strict=True):
            low, high = sorted((self._root(one), self._root(other)))
            self.parent[high] = low

    def _root(self, row: int) -> int:
        while self.parent[row] != row:
            self.parent[row] = self.parent[self.parent[row]]
            row = int(self.parent[row])
        return row

    def flatten(self) -> None:
        """Let every document point at the first of its cluster. A parent stands before its children, so
        one pass in order is enough, with jumps within a part of the rows."""
        for rows in self.slices():
            part = self.parent[self.parent[rows]]
            while not np.array_equal(further := self.parent[part], part):
                part = further
            self.parent[rows] = part

    def masks(self, sizes: Sequence[int]) -> Iterator[NDArray[np.bool_]]:
        """For each unit of so many documents, which of them stay: the first of each cluster."""
        start = 0
        for size in sizes:
            yield np.asarray(self.parent[start : start + size]) == np.arange(start, start + size)
            start += size


def cluster(
    units: Sequence[Hashes],
    config: Config,
    folder: Path,
    similarity: Similarity | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Clusters:
    """The clusters of all documents.

    A unit is (documents, bands) of `minhash.band_keys`, in memory or memory mapped. `similarity` is asked
    where `config.min_similarity` is above 0: `estimated(...)`, or one that reads the texts. Temporary files
    go to `folder`, and the clusters' own file stays there. `advance` is told of documents looked at, each one
    once in every band.
    """
    assert similarity is not None or not config.min_similarity, "min_similarity needs a similarity"
    found = Clusters(sum(map(len, units)), folder, config.memory_bytes)
    bands = units[0].shape[1] if units else 0
    with tempfile.TemporaryDirectory(dir=folder) as place:
        for band in range(bands):
            with Sorter(Path(place), config.memory_bytes) as by_key:
                _add(by_key, units, band)
                for left, right in _candidates(by_key, advance):
                    if config.min_similarity and similarity is not None:
                        _compare(found, left, right, similarity, config.min_similarity)
                    else:
                        found.unite(left, right)
    found.flatten()
    return found


def _add(by_key: Sorter, units: Sequence[Hashes], band: int) -> None:
    done = 0
    for unit in units:
        keys = np.asarray(unit[:, band])
        rows = np.flatnonzero(keys != NOTHING)
        by_key.add(make_records(keys[rows], rows + done))
        done += len(unit)


def _candidates(by_key: Sorter, advance: Callable[[int], None]) -> Iterator[tuple[Integers, Integers]]:
    """(first, other) for every document that is not the first with its key."""
    for block in ranked(by_key.blocks()):
        advance(len(block.records))
        later = np.flatnonzero(block.rank)
        yield block.first[later].astype(np.int64), block.records["position"][later].astype(np.int64)


def _compare(found: Clusters, left: Integers, right: Integers, alike: Similarity, least: float) -> None:
    """Unite those alike. Those that are unlike the first of their group are compared with the first of
    themselves, and so on. Pairs that are in one cluster already need no look."""
    for _ in range(MAX_LEADERS):
        apart = np.array([found._root(a) != found._root(b) for a, b in zip(left, right, strict=True)], bool)
        left, right = left[apart], right[apart]
        if not len(left):
            return
        is_alike = alike(left, right) >= least
        found.unite(left[is_alike], right[is_alike])
        left, right = left[~is_alike], right[~is_alike]
        _, group, inverse = np.unique(left, return_index=True, return_inverse=True)
        left = right[group][inverse]  # the first of each group that is left over leads the rest of it
        others = left != right
        left, right = left[others], right[others]


def estimated(units: Sequence[Hashes], memory_bytes: int = MEMORY_BYTES) -> Similarity:
    """The likeness that signatures say; a unit is (documents, hashes), in memory or memory mapped."""
    begins = np.cumsum([0, *map(len, units)])

    def rows(places: Integers) -> Hashes:
        owners = np.searchsorted(begins, places, side="right") - 1
        out = np.empty((len(places), units[0].shape[1]), np.uint64)
        for unit in np.unique(owners):
            here = owners == unit
            out[here] = units[unit][places[here] - begins[unit]]
        return out

    def similarity(left: Integers, right: Integers) -> NDArray[np.float64]:
        step = max(memory_bytes // (32 * units[0].shape[1]), 1) if units else 1
        parts = [slice(start, start + step) for start in range(0, len(left), step)]
        found = [estimated_jaccard(rows(left[part]), rows(right[part])) for part in parts]
        return np.concatenate(found) if found else np.empty(0)

    return similarity
