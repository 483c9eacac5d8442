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
    done = 0
    for firsts in first_places(units, memory_bytes, folder):
        yield firsts == np.arange(done, done + len(firsts))
        done += len(firsts)


def first_places(
    units: Sequence[NDArray[np.uint8]], memory_bytes: int = MEMORY_BYTES, folder: Path | None = None
) -> Iterator[NDArray[np.int64]]:
    """For each unit, (documents,) where in the corpus the first document of the same text stands: a document
    that is the first itself has its own place. Units and `folder` are as in `keep_first`."""
    sizes = [len(unit) for unit in units]
    with (
        tempfile.TemporaryDirectory(dir=folder) as place,
        Sorter(Path(place), memory_bytes // 2, _HASHED) as by_hash,
        Sorter(Path(place), memory_bytes // 2) as by_place,
    ):
        for records in _hashed(units, memory_bytes):
            by_hash.add(records)
        for repeats in _repeated(by_hash):
            by_place.add(repeats)
        done = 0
        for size, found in zip(sizes, split_records(by_place.blocks(), sizes), strict=True):
            firsts = np.arange(done, done + size)
            firsts[(found["key"] - np.uint64(done)).astype(np.intp)] = found["position"].astype(np.int64)
            yield firsts
            done += size


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


def _repeated(by_hash: Sorter) -> Iterator[Records]:
    """(place, place of the first of the same text) of the documents whose 16 bytes came before. A key is the
    first half of a hash; the second halves that the last key of a block has shown are remembered with their
    first places, for its group may go on."""
    last, seen, seen_at = -1, np.empty(0, np.uint64), np.empty(0, np.uint64)
    for block in by_hash.blocks():
        block = block[np.lexsort((block["rest"], block["key"]))]  # stable: the first of equals stays first
        keys, rests = block["key"], block["rest"]
        is_repeated = np.concatenate([[False], (keys[1:] == keys[:-1]) & (rests[1:] == rests[:-1])])
        heads = np.maximum.accumulate(np.where(is_repeated, 0, np.arange(len(block))))
        firsts = block["position"][heads]
        if int(keys[0]) == last:
            going_on = np.arange(int(np.searchsorted(keys, keys[0], side="right")))
            going_on = going_on[np.isin(rests[going_on], seen)]
            is_repeated[going_on] = True
            firsts[going_on] = seen_at[np.searchsorted(seen, rests[going_on])]
        found = np.empty(int(is_repeated.sum()), RECORD)
        found["key"], found["position"] = block["position"][is_repeated], firsts[is_repeated]
        yield found
        tail = int(np.searchsorted(keys, keys[-1]))
        same = int(keys[-1]) == last
        rests, firsts = rests[tail:], firsts[tail:]
        if same:
            rests, firsts = np.concatenate([seen, rests]), np.concatenate([seen_at, firsts])
        seen, chosen = np.unique(rests, return_index=True)
        last, seen_at = int(keys[-1]), firsts[chosen]


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
    start = 0
    for size, found in zip(sizes, split_records(blocks, sizes), strict=True):
        keep = np.ones(size, bool)
        keep[(found["key"] - np.uint64(start)).astype(np.intp)] = False
        yield keep
        start += size


def split_records(blocks: Iterator[Records], sizes: Sequence[int]) -> Iterator[Records]:
    """Records in the order of their keys, which are places in the corpus -> those of each unit of so many."""
    waiting = np.empty(0, RECORD)
    end = 0
    for size in sizes:
        end += size
        parts = [waiting[:0]]
        while True:
            inside = int(np.searchsorted(waiting["key"], np.uint64(end)))
            parts.append(waiting[:inside])
            waiting = waiting[inside:]
            block = None if len(waiting) else next(blocks, None)
            if block is None:
                break
            waiting = block.copy()
        yield np.concatenate(parts)
