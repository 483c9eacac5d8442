"""Some documents of a folder of shards, read as if they were all there is: the text of a few sources."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
from numpy.typing import NDArray

from modelwright.tokenizer.shards import TokenShards


class Selection:
    """The documents of some sources as one stream of tokens, in the order of the shards."""

    def __init__(self, shards: TokenShards, sources: Collection[str]) -> None:
        self._shards = shards
        chosen = np.isin(shards.source_numbers, shards.numbers_of(sources))
        edges = np.flatnonzero(np.diff(np.concatenate([[False], chosen, [False]]).astype(np.int8)))
        first, last = edges[::2], edges[1::2]  # runs of neighbouring documents
        self._starts: NDArray[np.int64] = shards.boundaries[first]
        lengths = shards.boundaries[last] - self._starts
        self._edges: NDArray[np.int64] = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)

    def __len__(self) -> int:
        return int(self._edges[-1])

    def position(self, place: int) -> int:
        """Where the token at `place` of this stream stands in the shards."""
        if not 0 <= place < len(self):
            raise IndexError(f"token {place} of {len(self)}")
        run = int(np.searchsorted(self._edges, place, side="right")) - 1
        return int(self._starts[run]) + place - int(self._edges[run])

    def spans(self, start: int, length: int) -> Iterator[tuple[int, int]]:
        """(position in the shards, tokens) of the pieces of [start, start + length), in order."""
        if start < 0 or length < 0 or start + length > len(self):
            raise IndexError(f"tokens [{start}, {start + length}) of {len(self)}")
        while length:
            run = int(np.searchsorted(self._edges, start, side="right")) - 1
            size = min(length, int(self._edges[run + 1]) - start)
            yield self.position(start), size
            start, length = start + size, length - size

    def read(self, start: int, length: int) -> NDArray[np.int64]:
        """(length,) ids from place `start` of this stream."""
        pieces = [self._shards.read(position, size) for position, size in self.spans(start, length)]
        return np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int64)
