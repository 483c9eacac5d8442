"""What a unit of work is busy with, noted where it outlives the process that works on it.

A process can be killed by the system (out of memory), by a fault in a library, or because it hangs. Who
takes the unit up again reads from its note which document it died on. A document that was being worked on
when a process died twice is to blame.
"""

from __future__ import annotations

import json
import mmap
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from modelwright.base.files import write_json

DEATHS_TO_BLAME = 2
"""One death may be anybody's fault: a neighbour took the memory, somebody stopped the run."""

_NOTE = struct.Struct("<qq")  # the document's number from 0, and a count of changes
_IDLE = -1


class Beat:
    """A unit's note of the document at hand, and its progress."""

    def __init__(self, folder: Path, number: int, advance: Callable[[int], None] = lambda _: None) -> None:
        """`advance` is told how many bytes of input have been used up."""
        folder.mkdir(parents=True, exist_ok=True)
        self.advance = advance
        self._note = folder / f"{number:06d}.note"
        self._deaths = folder / f"{number:06d}.deaths.json"
        self._changes = 0
        self._read_the_last()
        self._note.write_bytes(_NOTE.pack(_IDLE, 0))
        self._file = self._note.open("r+b")
        self._map = mmap.mmap(self._file.fileno(), _NOTE.size)

    def at(self, document: int) -> None:
        """Work on this document of the unit begins."""
        self._changes += 1
        _NOTE.pack_into(self._map, 0, document, self._changes)

    def is_to_blame(self, document: int) -> bool:
        """Whether processes have died on this document."""
        return self.deaths.get(document, 0) >= DEATHS_TO_BLAME

    def done(self) -> None:
        """The unit is finished, or has failed in an orderly way: nobody died."""
        self._map.close()
        self._file.close()
        self._note.unlink(missing_ok=True)

    def _read_the_last(self) -> None:
        """Count the death that an abandoned note tells of."""
        found = json.loads(self._deaths.read_text()) if self._deaths.is_file() else {}
        self.deaths: Counter[int] = Counter({int(number): count for number, count in found.items()})
        if not self._note.is_file() or self._note.stat().st_size != _NOTE.size:
            return
        document, _ = _NOTE.unpack(self._note.read_bytes())
        if document != _IDLE:
            self.deaths[document] += 1
            write_json(self._deaths, {str(number): count for number, count in self.deaths.items()})


def changes(folder: Path, number: int) -> int:
    """How often a unit's note has changed: the same figure for long means that the unit hangs."""
    try:
        return _NOTE.unpack((folder / f"{number:06d}.note").read_bytes())[1]
    except (OSError, struct.error):
        return 0


def forget_deaths(folder: Path) -> None:
    """Start afresh: who was killed with a whole run, by a power cut or by hand, is to blame for nothing."""
    for file in (*folder.glob("*.note"), *folder.glob("*.deaths.json")):
        file.unlink()
