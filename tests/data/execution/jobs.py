"""Units of work for the tests: each leaves a file, and some misbehave as their folder tells them."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from modelwright.base.errors import DamagedFile
from modelwright.base.files import write_json
from modelwright.data.execution.beat import Beat

DOCUMENTS = 5


def unit(folder: Path, number: int, beat: Beat) -> dict[str, Any]:
    """Works on five documents; `plan.json` holds {"unit:document": what goes wrong there}."""
    plan = json.loads((folder / "plan.json").read_text())
    done = folder / f"{number}.json"
    if done.is_file():
        return {"unit": number, "again": True}
    kept, blamed = [], []
    misbehave(plan.get(f"{number}:start"), folder / f"first-{number}-start")
    for document in range(DOCUMENTS):
        # Unless it is careful, it takes in all documents before it works on them.
        beat.at(document if beat.careful or "together" not in plan else DOCUMENTS - 1)
        if beat.is_to_blame(document):
            blamed.append(document)
            continue
        misbehave(plan.get(f"{number}:{document}"), folder / f"first-{number}-{document}")
        kept.append(document)
        beat.advance(10)
    write_json(done, kept)
    return {"unit": number, "kept": kept, "blamed": blamed}


def misbehave(how: str | None, mark: Path) -> None:
    first = not mark.exists()
    if how:
        mark.touch()
    if how == "die" or (how == "die once" and first):
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "hang" or (how == "hang once" and first):
        time.sleep(60)
    elif how == "compute":
        until = time.monotonic() + 5
        while time.monotonic() < until:
            pass
    elif how == "damaged":
        raise DamagedFile("page 3 is torn")
    elif how == "bug" or (how == "bug once" and first):
        raise ZeroDivisionError("one over nothing")
    elif how == "full":
        raise OSError(errno.ENOSPC, "No space left on device")
