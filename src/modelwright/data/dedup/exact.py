"""Exact duplicates: the same text twice teaches nothing twice, and leaks into validation."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modelwright.data.dedup.normal import normalise
from modelwright.data.dedup.settings import MEMORY_BYTES
from modelwright.data.dedup.sorting import RECORD, Records, Sorter

HASH_BYTES = 16
"""Of the sha256: two different texts among 1e12 agree by chance with probability 1e-15."""

_HASHED = np.dtype([*RECORD.descr, ("rest", "<u8")])


def text_hash(text: str, normalised: bool = False) -> bytes:
    """The first 16 bytes of the sha256 of a text (which begins its document's id), or, normalised, of its
    words: texts that differ in case, punctuation, digits, accents and white space only are then equal."""
    content = normalise(text) if normalised else text
    return hashlib.sha256(content.encode()).digest()[:HASH_BYTES]


def keep_first(
    units: Sequence[NDArray[np.uint8]], memory_bytes: int = MEMORY_BYTES, folder: Path | None = None
) -> Iterator[NDArray[np.bool_]]:
    """For each unit, which of its documents stay: the first of each text in the order of the corpus.

    A unit is (documents, 16) bytes of `text_hash`, in memory or memory mapped. Sorting writes to a
    temporary folder within `folder` what `memory_bytes` do not hold.
    """
    with (
        tempfile.TemporaryDirectory(dir=folder) as place,
        Sorter(Path(place), memory_bytes // 2, _HASHED) as by_hash,
    ):
        for records in _hashed(units, memory_bytes):
            by_hash.add(records)
        repeated = _repeated(by_hash)
        yield from masks(repeated, [len(unit) for unit in units], Path(place), memory_bytes // 2)


def _hashed(units: Iterable[NDArray[np.uint8]], memory_bytes: int) -> Iterator[Records]:
    rows = max(memory_bytes // 256, 1)
    done = 0
    for unit in units:
        assert unit.shape[1:] == (HASH_BYTES,), f"a hash is {HASH_BYTES} bytes, received {unit.shape}"
        for start in range(0, len(unit), rows):
            words = np.ascontiguousarray(unit[start : start + rows]).view("<u8")
            records = np.empty(len(words), _HASHED)
            records["key"], records["rest"] = words[:, 0], words[:, 1]
            records["position"] = np.arange(done, done + len(words))
            done += len(words)
            yield records


def _repeated(by_hash: Sorter) -> Iterator[NDArray[np.uint64]]:
    """Positions of the records whose 16 bytes came before. A key is the first half of a hash; the second
    halves that the last key of a block has shown are remembered, for its group may go on."""
    last, seen = -1, np.empty(0, np.uint64)
    for block in by_hash.blocks():
        block = block[np.lexsort((block["rest"], block["key"]))]  # stable: the first of equals stays first
        keys, rests = block["key"], block["rest"]
        is_repeated = np.concatenate([[False], (keys[1:] == keys[:-1]) & (rests[1:] == rests[:-1])])
        if int(keys[0]) == last:
            going_on = slice(0, int(np.searchsorted(keys, keys[0], side="right")))
            is_repeated[going_on] |= np.isin(rests[going_on], seen)
        yield block["position"][is_repeated]
        end = np.unique(rests[np.searchsorted(keys, keys[-1]) :])
        seen = np.union1d(seen, end) if int(keys[-1]) == last else end
        last = int(keys[-1])


def masks(
    dropped: Iterable[NDArray[np.uint64]], sizes: Sequence[int], folder: Path, memory_bytes: int
) -> Iterator[NDArray[np.bool_]]:
    """Positions over all units, in any order -> for each unit, which of its rows stay."""
    with Sorter(folder, memory_bytes) as by_position:
        for positions in dropped:
            records = np.empty(len(positions), RECORD)
            records["key"] = records["position"] = positions
            by_position.add(records)
        yield from split_units(by_position.blocks(), sizes)


def split_units(blocks: Iterator[Records], sizes: Sequence[int]) -> Iterator[NDArray[np.bool_]]:
    """For each unit of so many rows, True where no record's key is the row's position."""
    waiting = np.empty(0, np.uint64)
    start = 0
    for size in sizes:
        keep = np.ones(size, bool)
        while True:
            inside = int(np.searchsorted(waiting, np.uint64(start + size)))
            keep[(waiting[:inside] - np.uint64(start)).astype(np.intp)] = False
            waiting = waiting[inside:]
            block = None if len(waiting) else next(blocks, None)
            if block is None:
                break
            waiting = np.ascontiguousarray(block["key"])
        yield keep
        start += size
