"""Lines, paragraphs and runs of sentences that stand elsewhere in the corpus too.

Menus, notices and licences come back line by line. CCNet (arXiv 1911.00359) drops every paragraph seen
before; C4 (arXiv 1910.10683) all but one of any three sentences in a row. Pieces are compared by their words
(normal.py) and 64 bits of hash; two different ones among 1e8 meet by chance with probability 3e-4.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modelwright.data.dedup import native, normal
from modelwright.data.dedup.exact import masks
from modelwright.data.dedup.hashing import WORDS, Hashes, Integers, mix, polynomials
from modelwright.data.dedup.minhash import word_hashes
from modelwright.data.dedup.ranges import Ranges, Texts, merged
from modelwright.data.dedup.settings import Lines as Config
from modelwright.data.dedup.settings import Unit
from modelwright.data.dedup.sorting import Sorter, make_records, ranked

_SPLIT = {
    "line": re.compile(rb"\n"),
    "paragraph": re.compile(rb"\n[ \t\r]*\n\s*"),
    "sentences": re.compile(rb"(?<=[.!?])\s+|(?<=\xe3\x80\x82)|\n+"),  # the middle one is the CJK full stop
}
"""What stands between pieces; it belongs to the piece before."""

SENTENCES = 3
"""In a run, as in C4."""

_BATCH = 1 << 10


@dataclass(frozen=True, slots=True)
class Pieces:
    """The pieces of a unit's documents that are long enough, in order; arrays of one length, in memory or
    memory mapped."""

    key: Hashes
    document: Integers
    start: Integers
    end: Integers
    """[start, end) in bytes of the document's UTF-8."""

    def __len__(self) -> int:
        return len(self.key)


def find_pieces(texts: Iterable[str], config: Config) -> Pieces:
    """The pieces of a unit; the first of the two passes over the text."""
    parts: list[Pieces] = []
    batch: list[str] = []
    done = 0
    for text in texts:
        batch.append(text)
        if len(batch) == _BATCH:
            parts.append(_pieces(batch, done, config))
            done += len(batch)
            batch = []
    parts.append(_pieces(batch, done, config))
    return Pieces(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in Pieces.__dataclass_fields__)
    )


def _pieces(batch: Sequence[str], first: int, config: Config) -> Pieces:
    texts = Texts.of(batch)
    content = texts.content.tobytes()
    spans: list[tuple[int, int, int]] = []
    for row, (begin, end) in enumerate(
        zip(texts.offsets[:-1].tolist(), texts.offsets[1:].tolist(), strict=True)
    ):
        spans += [(row, start, stop) for start, stop in _spans(content, begin, end, config.piece)]
    document, start, end = np.array(spans, np.int64).reshape(-1, 3).T
    start, end = np.ascontiguousarray(start), np.ascontiguousarray(end)
    key, letters = _hash_pieces(texts, start, end)
    long = letters >= config.min_letters
    base = texts.offsets[document]
    return Pieces(key[long], (document + first)[long], (start - base)[long], (end - base)[long])


def _spans(content: bytes, begin: int, end: int, piece: Unit) -> Iterator[tuple[int, int]]:
    """[start, end) of each piece; runs of sentences overlap."""
    cuts = [begin, *(found.end() for found in _SPLIT[piece].finditer(content, begin, end)), end]
    cuts = [cut for place, cut in enumerate(cuts) if place == 0 or cut > cuts[place - 1]]
    width = SENTENCES if piece == "sentences" else 1
    yield from zip(cuts, cuts[width:], strict=False)


def _hash_pieces(texts: Texts, start: Integers, end: Integers) -> tuple[Hashes, Integers]:
    """The hash of the words of each piece, and how many letters they have."""
    if native.library() is not None:
        key, letters = np.empty(len(start), np.uint64), np.empty(len(start), np.int64)
        codes, many = normal.table()
        native.call("hash_pieces", texts.content, start, end, len(start), codes, many, key, letters)
        return key, letters
    found = [_plain_hash(texts.content[a:b].tobytes().decode()) for a, b in zip(start, end, strict=True)]
    key, letters = zip(*found, strict=True) if found else ((), ())
    return np.array(key, np.uint64), np.array(letters, np.int64)


def _plain_hash(piece: str) -> tuple[int, int]:
    normalised = normal.normalise(piece)
    words = word_hashes(normalised)
    whole = mix(polynomials(words, np.zeros(1, np.int64), np.array([len(words)]), WORDS))
    return int(whole[0]), len(normalised.replace(" ", ""))


def too_many(
    units: Sequence[Hashes], config: Config, folder: Path | None = None
) -> Iterator[NDArray[np.bool_]]:
    """For each unit, which of its pieces stay. A unit is the `key` of its `Pieces`."""
    with (
        tempfile.TemporaryDirectory(dir=folder) as place,
        Sorter(Path(place), config.memory_bytes // 2) as by_key,
    ):
        done = 0
        for unit in units:
            by_key.add(make_records(np.asarray(unit), np.arange(done, done + len(unit))))
            done += len(unit)
        dropped = _dropped(by_key, config)
        yield from masks(dropped, [len(unit) for unit in units], Path(place), config.memory_bytes // 2)


def _dropped(by_key: Sorter, config: Config) -> Iterator[NDArray[np.uint64]]:
    """Positions of the copies that go. The first ones go too when their group turns out too large, which is
    known at the group's record of that number: until then they wait."""
    limit = config.drop_all_above
    early = config.keep if limit is None else min(config.keep, limit)
    waiting = np.empty(0, np.uint64)  # copies of the last block's last key that may yet go
    for block in ranked(by_key.blocks()):
        position, rank, keys = block.records["position"], block.rank, block.records["key"]
        goes = rank >= config.keep
        if limit is not None:
            waiting = waiting[:0] if rank[0] == 0 else waiting
            ends = np.concatenate([keys[1:] != keys[:-1], [True]])
            group = np.cumsum(np.concatenate([[0], ends[:-1]])).astype(np.intp)
            is_large = rank[ends] >= limit
            if is_large[0]:
                yield waiting
                waiting = waiting[:0]
            goes |= is_large[group]
            held = (group == group[-1]) & (rank < early) & ~goes
            waiting = np.concatenate([waiting if group[-1] == 0 else waiting[:0], position[held]])
        yield position[goes]


def ranges_of(pieces: Pieces, stays: NDArray[np.bool_]) -> Ranges:
    """What is to be cut from a unit's documents: the pieces that do not stay."""
    goes = ~stays
    return merged(pieces.document[goes], pieces.start[goes], pieces.end[goes])
