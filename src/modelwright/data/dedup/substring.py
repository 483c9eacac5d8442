"""Passages of so many bytes that stand elsewhere in the corpus too, exactly (Lee et al., arXiv 2107.06499).

A window is `min_bytes` bytes of one document. It is repeated where the same bytes stand before it in the
corpus, not overlapping it; all repeated windows together are what is cut, so the first copy of a passage
stays whole. Lee et al. find these by a suffix array, five to ten times the corpus in memory. Here memory is
bounded, in three passes over the text:

1. Of each window the minimizer, the last of its smallest hashes of `GRAM` bytes (winnowing, Schleimer et
   al. 2003). Equal windows have equal minimizers, and there is one for some 35 bytes of text. Those whose
   hash stands twice are suspects.
2. A hash of each window whose minimizer is a suspect, sorted, on disk where memory does not hold them.
3. Windows of equal hash are compared byte by byte with the first of them.

The answer is that of the suffix array (suffix_array.py), whatever the hashes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelwright.data.dedup import native
from modelwright.data.dedup.hashing import Hashes, Integers, mix, polynomials
from modelwright.data.dedup.ranges import Bytes, Ranges, Texts, merged, snapped
from modelwright.data.dedup.settings import Passages as Config
from modelwright.data.dedup.sorting import Records, Sorter, make_records, ranked

PLACE = np.dtype([("key", "<u8")])
"""A record that is nothing but a place in the corpus."""


def repeated(
    units: Sequence[Texts],
    config: Config,
    folder: Path | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Iterator[Ranges]:
    """For each unit the parts of its documents that stand before in the corpus, at borders of letters.

    Temporary files go to a folder of their own within `folder`. `advance` is told of bytes looked at, each
    one in `settings.PASSES` passes.
    """
    begins = np.cumsum([0, *(len(unit.content) for unit in units)], dtype=np.int64)
    with tempfile.TemporaryDirectory(dir=folder) as place, _places(place, config) as found:
        with _places(place, config) as suspects:
            with Sorter(Path(place), config.memory_bytes // 4) as by_hash:
                for number, unit in enumerate(units):
                    for records in _minimizers(unit, config):
                        records["position"] += np.uint64(begins[number])
                        by_hash.add(records)
                    advance(len(unit.content))
                for block in _suspects(by_hash):
                    suspects.add(block)
            with Sorter(Path(place), config.memory_bytes // 4) as by_hash:
                reader = Places(suspects.blocks())
                for number, unit in enumerate(units):
                    for records in _windows(unit, config, reader, int(begins[number])):
                        by_hash.add(records)
                    advance(len(unit.content))
                for block in _verified(by_hash, units, begins, config.min_bytes):
                    found.add(block)
        reader = Places(found.blocks())
        for number, unit in enumerate(units):
            yield _ranges(unit, config, reader, int(begins[number]))
            advance(len(unit.content))


def _places(folder: str, config: Config) -> Sorter:
    return Sorter(Path(folder), config.memory_bytes // 4, PLACE)


class Places:
    """A sorted stream of places, taken from its beginning."""

    def __init__(self, blocks: Iterator[Records]) -> None:
        self._blocks = blocks
        self._waiting: Hashes = np.empty(0, np.uint64)

    def until(self, end: int) -> Integers:
        """Take the places below `end`."""
        taken: list[Integers] = []
        while True:
            inside = int(np.searchsorted(self._waiting, np.uint64(end)))
            taken.append(self._waiting[:inside].astype(np.int64))
            self._waiting = self._waiting[inside:]
            block = None if len(self._waiting) else next(self._blocks, None)
            if block is None:
                return np.concatenate(taken)
            self._waiting = np.ascontiguousarray(block["key"])


def _parts(unit: Texts, config: Config) -> Iterator[tuple[Integers, Integers]]:
    """Where windows of a unit begin: the [starts, stops) of its documents, or of parts of long ones, in
    groups of bounded size."""
    limit = max(config.memory_bytes // 128, 1)
    starts: list[int] = []
    stops: list[int] = []
    size = 0
    for begin, end in zip(unit.offsets[:-1].tolist(), unit.offsets[1:].tolist(), strict=True):
        last = end - config.min_bytes + 1
        while begin < last:
            stop = min(last, begin + limit - size)
            starts.append(begin)
            stops.append(stop)
            size += stop - begin
            begin = stop
            if size >= limit:
                yield np.array(starts), np.array(stops)
                starts, stops, size = [], [], 0
    if starts:
        yield np.array(starts), np.array(stops)


def _minimizers(unit: Texts, config: Config) -> Iterator[Records]:
    """(hash, place in the unit) of the minimizers of all windows. One at the border of two parts of a
    document may come twice, which makes it a suspect and no more."""
    text = np.ascontiguousarray(unit.content)
    for starts, stops in _parts(unit, config):
        if native.library() is not None:
            size = int(np.sum(stops - starts))
            hashes, places = np.empty(size, np.uint64), np.empty(size, np.int64)
            count = native.call(
                "minimizers", text, starts, stops, len(starts), config.gram, config.min_bytes, hashes, places
            )
            yield make_records(hashes[:count], places[:count])
        else:
            for start, stop in zip(starts, stops, strict=True):
                grams, minimizers = _plain_minimizers(text, start, stop, config)
                places = np.unique(minimizers)
                yield make_records(grams[places - start], places)


def _plain_minimizers(text: Bytes, start: int, stop: int, config: Config) -> tuple[Hashes, Integers]:
    """The hashes of the grams from `start` on, and the place of the minimizer of each window."""
    in_window = config.min_bytes - config.gram + 1
    grams = _plain_hashes(text, start, stop + in_window - 1, config.gram)
    views = np.lib.stride_tricks.sliding_window_view(grams, in_window)
    last_smallest = in_window - 1 - np.argmin(views[:, ::-1], axis=1)
    return grams, start + np.arange(stop - start) + last_smallest


def _plain_hashes(text: Bytes, start: int, stop: int, length: int) -> Hashes:
    """The hash of the `length` bytes at each place in [start, stop)."""
    places = np.arange(stop - start)
    return mix(polynomials(text[start : stop + length - 1], places, places + length))


def _suspects(by_hash: Sorter) -> Iterator[Records]:
    """The places of the records whose key is there twice."""
    pending = np.empty(0, np.uint64)  # the one record so far of the last block's last key
    for block in ranked(by_hash.blocks()):
        keys, position = block.records["key"], block.records["position"]
        is_last = np.concatenate([keys[1:] != keys[:-1], [True]])
        is_alone = (block.rank == 0) & is_last
        if len(pending) and block.rank[0] == 0:
            pending = pending[:0]  # its group did not go on
        places = np.concatenate([pending, position[~is_alone]])
        pending = position[-1:][is_alone[-1:]]
        yield places.astype(np.uint64).view(PLACE)


def _windows(unit: Texts, config: Config, suspects: Places, begin: int) -> Iterator[Records]:
    """(hash, place in the corpus) of the windows whose minimizer is a suspect."""
    text = np.ascontiguousarray(unit.content)
    length = config.min_bytes
    held = np.empty(0, np.int64)
    for starts, stops in _parts(unit, config):
        reach = int(stops[-1]) + length - config.gram  # of minimizers of these windows
        held = np.concatenate([held[held >= starts[0]], suspects.until(begin + reach) - begin])
        wanted = np.unique(held)
        if native.library() is not None:
            size = int(np.sum(stops - starts))
            hashes, places = np.empty(size, np.uint64), np.empty(size, np.int64)
            count = native.call(
                "windows", text, starts, stops, len(starts), config.gram, length, wanted, len(wanted),
                hashes, places,
            )  # fmt: skip
            yield make_records(hashes[:count], places[:count] + begin)
        else:
            for start, stop in zip(starts, stops, strict=True):
                _, minimizers = _plain_minimizers(text, start, stop, config)
                chosen = np.flatnonzero(np.isin(minimizers, wanted))
                yield make_records(
                    _plain_hashes(text, start, stop, length)[chosen], chosen + int(start) + begin
                )


def _verified(by_hash: Sorter, units: Sequence[Texts], begins: Integers, length: int) -> Iterator[Records]:
    """The places of windows that the same bytes stand `length` or more before."""
    last = -1
    leaders = np.empty(0, np.int64)  # the distinct windows of the last block's last hash
    for block in by_hash.blocks():
        hashes, places = block["key"].copy(), block["position"].astype(np.int64)
        if int(hashes[0]) == last:
            hashes = np.concatenate([np.repeat(hashes[:1], len(leaders)), hashes])
            places = np.concatenate([leaders, places])
        first = _first_equal(units, begins, hashes, places, length)
        yield places[places - first >= length].astype(np.uint64).view(PLACE)
        last = int(hashes[-1])
        leaders = np.unique(first[np.searchsorted(hashes, hashes[-1]) :])


def _first_equal(
    units: Sequence[Texts], begins: Integers, hashes: Hashes, places: Integers, length: int
) -> Integers:
    """For each window the first before it in its group of one hash that has the same bytes, or itself."""
    if native.library() is not None:
        first = np.empty(len(places), np.int64)
        contents = [np.ascontiguousarray(unit.content) for unit in units]
        addresses = np.array([content.ctypes.data for content in contents], np.uint64)
        native.call("first_equal", addresses, begins, len(units), hashes, places, len(places), length, first)
        return first
    seen: dict[bytes, int] = {}
    made: list[int] = []
    last: Any = None
    for value, place in zip(hashes.tolist(), places.tolist(), strict=True):
        if value != last:
            last, seen = value, {}
        unit = int(np.searchsorted(begins, place, side="right")) - 1
        start = place - int(begins[unit])
        made.append(seen.setdefault(units[unit].content[start : start + length].tobytes(), place))
    return np.array(made, np.int64)


def _ranges(unit: Texts, config: Config, found: Places, begin: int) -> Ranges:
    """What the repeated windows of a unit cover."""
    made: list[NDArray[np.int64]] = [np.empty((3, 0), np.int64)]
    step = max(config.memory_bytes // 128, 1)
    for start in range(0, len(unit.content), step):
        places = found.until(begin + min(start + step, len(unit.content))) - begin
        document = np.searchsorted(unit.offsets, places, side="right") - 1
        inside = places - unit.offsets[document]
        part = merged(document, inside, inside + config.min_bytes)
        made.append(np.stack([part.document, part.start, part.end]))
    document, starts, ends = np.concatenate(made, axis=1)
    return snapped(merged(document, starts, ends), unit)
