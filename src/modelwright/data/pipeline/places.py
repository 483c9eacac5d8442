"""Where each document of a unit stood, by its number: what a later document that repeats it is told.

Two files: all places one after another in UTF-8, and where each ends. A reader maps them, so one place among
millions costs one read; nothing depends on how many there are.
"""

from __future__ import annotations

from array import array
from functools import lru_cache
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from modelwright.base.schema import Document
from modelwright.data.pipeline.samples import place_of

PLACES, PLACE_ENDS = "places.txt", "place_ends.npy"


def where(document: Document) -> str:
    """ "forum: dump.jsonl, line 12": the source, and the place within it as far as the reader told."""
    place = place_of(document)
    return f"{document.source}: {place}" if place else document.source


class PlacesFile:
    """Writes the places of documents in their order to a folder. Use as a context."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._ends, self._done = folder, array("q"), 0
        self._file = (folder / PLACES).open("wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        np.save(self._folder / PLACE_ENDS, np.frombuffer(self._ends, np.int64), allow_pickle=False)

    def add(self, document: Document) -> None:
        """One more document."""
        self._done += self._file.write(where(document).encode())
        self._ends.append(self._done)


def read_place(folder: Path, number: int) -> str:
    """The place of document `number` of a unit, counted from 0."""
    text, ends = _mapped(folder, (folder / PLACES).stat().st_mtime_ns)
    start = int(ends[number - 1]) if number else 0
    return text[start : int(ends[number])].tobytes().decode()


@lru_cache(maxsize=64)
def _mapped(folder: Path, written: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    ends = np.load(folder / PLACE_ENDS, mmap_mode="r", allow_pickle=False)
    return np.memmap(folder / PLACES, np.uint8, "r"), ends
