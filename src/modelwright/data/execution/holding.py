"""Files that say who is alive: a lock that the system takes away from a process however it ends.

A process id in a file says nothing once the id is given out again, in another container or on another
machine.
"""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from modelwright.base.errors import UserError

LOCK_FILE = "at-work.lock"
_PATIENCE_SECONDS = 10.0
"""A worker whose parent was killed ends at once; on a cluster it takes a moment."""
_SECONDS_BETWEEN_TRIES = 0.05


def hold(path: Path, patience: float = _PATIENCE_SECONDS) -> int:
    """Open (or make) a file and lock it until the descriptor is closed. Raises UserError where another
    process holds it and goes on doing so."""
    until = time.monotonic() + patience
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if _lock(descriptor):
            if _is_still(path, descriptor):
                return descriptor
        elif time.monotonic() > until:
            os.close(descriptor)
            raise UserError(
                f"another process is at work in {path.parent}: it holds {path.name}. Is the same command "
                "running twice? Wait for it, or end it."
            )
        os.close(descriptor)
        time.sleep(_SECONDS_BETWEEN_TRIES)


def is_held(path: Path) -> bool:
    """Whether a living process holds the file."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        return not _lock(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Whether it is ours now. Where a file system has no locks, nobody is kept out."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether the file that was opened is the one at `path`: its holder may have removed it meanwhile."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


@contextmanager
def alone_in(folder: Path) -> Generator[None]:
    """Be the one run that works in this folder. Raises UserError where another is at it."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = hold(folder / LOCK_FILE, patience=1.0)
    try:
        yield
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path, ending: str = "") -> None:
    """Remove unfinished files and folders whose names end so. The caller holds what they belong to, so
    whoever made them is dead."""
    for path in folder.glob(".tmp-*" + glob.escape(ending)):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
