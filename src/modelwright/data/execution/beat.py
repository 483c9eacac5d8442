"""What a unit of work is busy with, noted where it outlives the process that works on it.

A process can be killed by the system (out of memory), by a fault in a library, or because it hangs. Who
takes the unit up again reads from its note on which document it died, and works on every document alone from
then on: steps that take many at a time may have been busy with another than the last one noted. A document
on which processes died twice, the last time alone, is to blame. So is one on which code raised an error
twice, which no process has to die for.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modelwright.base.files import read_json, write_json
from modelwright.data.execution.holding import hold, is_held

DEATHS_TO_BLAME = 2
"""One death may be anybody's fault: a neighbour took the memory, somebody stopped the run."""
MAX_BLAMED = 16
"""A unit with so many documents to blame is given up: then it is not the documents."""

_NOTE = struct.Struct("<qqq")  # what is at hand, a count of changes, whether each document is worked on alone
_NOBODY = -1
_WORKING, _READING = 0, 1
_NO_DEATHS: Mapping[str, Any] = {"died": 0, "on": {}, "in_doubt": None, "raised": {}}


class Beat:
    """A unit's note of the document at hand, and its progress. Held by one process at a time."""

    def __init__(self, folder: Path, number: int, advance: Callable[[int], None] = lambda _: None) -> None:
        """`advance` is told how many bytes of input have been used up. Raises UserError where a living
        process is at work on the unit."""
        folder.mkdir(parents=True, exist_ok=True)
        self._tell = advance
        self._note = _note(folder, number)
        self._record = _record(folder, number)
        self._hand, self._changes, self._seen = _NOBODY, 0, False
        self._descriptor = hold(self._note)
        try:
            self._read_the_last()
            os.pwrite(self._descriptor, _NOTE.pack(_NOBODY, 0, self.careful), 0)
            self._map = mmap.mmap(self._descriptor, _NOTE.size)
        except BaseException:
            os.close(self._descriptor)
            raise

    @property
    def careful(self) -> bool:
        """A process has died on this unit: every document is to be worked on alone."""
        return self._died > 0

    def advance(self, size: int) -> None:
        """So much input has been used up. Where no document was at hand yet, this does not count as a change:
        of work over all documents nobody can say when it hangs."""
        if self._changes:
            self._set(self._hand)
        self._tell(size)

    def at(self, document: int) -> None:
        """Work on this document of the unit (from 0) begins."""
        self._set(2 * document + _WORKING)

    def reading(self, document: int) -> None:
        """This document is about to be read."""
        self._set(2 * document + _READING)

    def nobody(self) -> None:
        """What follows is about no document: files are closed, hashed, flushed to the disk."""
        self._set(_NOBODY)

    @contextmanager
    def together(self) -> Generator[None]:
        """In the block work is done on many documents at once, and a death is none's fault."""
        hand = self._hand
        self._set(_NOBODY)
        yield
        self._set(hand)

    def is_to_blame(self, document: int) -> bool:
        """Whether processes have died, or errors were raised, working on this document."""
        return self._deaths[2 * document + _WORKING] >= DEATHS_TO_BLAME

    def is_unreadable(self, document: int) -> bool:
        """Whether processes have died, or errors were raised, reading this document."""
        return self._deaths[2 * document + _READING] >= DEATHS_TO_BLAME

    def error_on(self, document: int, reading: bool = False) -> str | None:
        """What was raised on a document that is to blame; None where processes died on it."""
        return self._raised.get(2 * document + (_READING if reading else _WORKING))

    def take_up_again(self, error: str) -> bool:
        """Whether the unit is to be taken up again after an error that is about no file and no setting: to
        find out on which document it was raised, or, where that is known, without it."""
        if not self._seen or (self.careful and self._hand == _NOBODY):
            return False  # it is about no document
        self._raised[self._hand] = error
        self._count_death(self._hand, self.careful)
        return self._died <= DEATHS_TO_BLAME * MAX_BLAMED

    def done(self) -> None:
        """The unit is finished, or has failed in an orderly way: nobody died."""
        self._map.close()
        self._note.unlink(missing_ok=True)
        os.close(self._descriptor)

    def _set(self, hand: int) -> None:
        self._hand = hand
        self._seen |= hand != _NOBODY
        self._changes += 1
        _NOTE.pack_into(self._map, 0, hand, self._changes, self.careful)

    def _read_the_last(self) -> None:
        """Count the death that an abandoned note tells of. One that was noted while documents were worked on
        together counts if the next death, alone, is on the same document."""
        found = read_json(self._record) if self._record.is_file() else _NO_DEATHS
        self._died, self._in_doubt = int(found["died"]), found["in_doubt"]
        self._deaths: Counter[int] = Counter({int(hand): count for hand, count in found["on"].items()})
        self._raised = {int(hand): str(error) for hand, error in found["raised"].items()}
        left = os.pread(self._descriptor, _NOTE.size, 0)
        if len(left) == _NOTE.size:
            hand, _, alone = _NOTE.unpack(left)
            self._count_death(hand, bool(alone))

    def _count_death(self, hand: int, alone: bool) -> None:
        self._died += 1
        if alone and hand != _NOBODY:
            self._deaths[hand] += 1 + (self._in_doubt == hand)
        self._in_doubt = None if alone else hand
        record = {"died": self._died, "on": self._deaths, "in_doubt": self._in_doubt, "raised": self._raised}
        write_json(self._record, record)


def _note(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.note"


def _record(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.deaths.json"


def changes(folder: Path, number: int) -> int:
    """How often a unit's note has changed: the same figure for long means that the unit hangs."""
    try:
        return _NOTE.unpack(_note(folder, number).read_bytes())[1]
    except (OSError, struct.error):
        return 0


def num_blamed(folder: Path, number: int) -> int:
    """How many documents of a unit are to blame so far."""
    try:
        deaths = json.loads(_record(folder, number).read_text())["on"]
    except (OSError, ValueError):
        return 0
    return sum(count >= DEATHS_TO_BLAME for count in deaths.values())


def forget_deaths(folder: Path) -> None:
    """Start afresh: who was killed with a whole run, by a power cut or by hand, is to blame for nothing.
    Notes that a living process holds are left."""
    for note in folder.glob("*.note"):
        if not is_held(note):
            note.unlink(missing_ok=True)
    for record in folder.glob("*.deaths.json"):
        record.unlink(missing_ok=True)
