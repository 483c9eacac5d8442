"""A worker process: reads units of work from standard input, tells of them on standard output.

Both ways a message is one line of JSON. In: {"function", "folder", "unit"}. Out: {"bytes": n} now and
then, and at the end of a unit {"done": result} or {"failed": {"kind", "says"}}. No pickle: what comes
from a worker that was working on hostile input is data and nothing else.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO

from modelwright.base.errors import UserError
from modelwright.base.room import disk_full, is_full
from modelwright.data.execution.beat import Beat

NOTES = "notes"
"""Where the units' notes lie below the work folder."""
_SECONDS_BETWEEN_MESSAGES = 0.2


def work(function: str, folder: Path, number: int, advance: Callable[[int], None]) -> dict[str, Any]:
    """Do one unit; {"done": result}, or {"failed": what went wrong} in words that outlive the process. A unit
    in which code raised an error over a document is taken up again, as one is that killed its process."""
    module, _, name = function.partition(":")
    while True:
        beat: Beat | None = None
        try:
            beat = Beat(notes_of(function, folder), number, advance)
            return {"done": getattr(import_module(module), name)(folder, number, beat)}
        except UserError as error:
            return {"failed": {"kind": type(error).__name__, "says": str(error)}}
        except OSError as error:
            if is_full(error):
                return {"failed": {"kind": "UserError", "says": disk_full(folder)}}
            return {"failed": {"kind": "", "says": traceback.format_exc()}}
        except Exception as error:
            if not beat or not beat.take_up_again(_told(error)):
                return {"failed": {"kind": "", "says": traceback.format_exc()}}
        finally:
            if beat:
                beat.done()


def _told(error: Exception) -> str:
    """An error in a line: the step (a note that `steps.chain` leaves), kind, words, and where in the code."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    step = next(iter(getattr(error, "__notes__", ())), "what follows the steps")
    place = f"{Path(frame.filename).name}, line {frame.lineno}"
    return " ".join(f"{step} raised {type(error).__name__}: {error} ({place})".split())


def notes_of(function: str, folder: Path) -> Path:
    """Where the notes of this function's units lie."""
    return folder / NOTES / function.rpartition(":")[2]


def main() -> None:
    """Serve until standard input ends."""
    end_with_the_parent()
    allow_many_files()
    messages: TextIO = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints goes to standard error
    for line in sys.stdin:
        asked = json.loads(line)
        counter = _Counter(messages)
        answer = work(asked["function"], Path(asked["folder"]), asked["unit"], counter)
        counter.say()
        messages.write(json.dumps(answer) + "\n")


def end_with_the_parent() -> None:
    """A worker whose parent was killed would go on with a unit that the next run takes up: it ends too."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def allow_many_files() -> None:
    """Every unit's arrays are mapped at once where all are looked at: as many files as the system allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class _Counter:
    """Sums up bytes and tells of them now and then."""

    def __init__(self, messages: TextIO) -> None:
        self._messages, self._bytes, self._last = messages, 0, time.monotonic()

    def __call__(self, size: int) -> None:
        self._bytes += size
        if time.monotonic() - self._last >= _SECONDS_BETWEEN_MESSAGES:
            self.say()

    def say(self) -> None:
        if self._bytes:
            self._messages.write(json.dumps({"bytes": self._bytes}) + "\n")
        self._bytes, self._last = 0, time.monotonic()
