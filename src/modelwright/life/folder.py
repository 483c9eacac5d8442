"""A run directory: who works on it, what its unfinished work is good for, what is left in it."""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from modelwright import __version__
from modelwright.base.artifact import BEGAN, MANIFEST, STARTED, Artifact, Parent, fingerprint
from modelwright.base.config import Config
from modelwright.base.errors import UserError
from modelwright.base.files import read_json
from modelwright.recipes.recipe import RECIPE_FILE

REPLACED = "replaced"
"""Where folders go that changed settings or inputs have made obsolete."""
FORGETTING = "forgetting.json"
"""What an unfinished `forget` still has to do."""
LOCK = ".lock"
BOOKKEEPING = (
    *(LOCK, FORGETTING, RECIPE_FILE, STARTED, "log.txt", "timing.jsonl", "resources.jsonl"),
    *("plan.json", "units.jsonl", "units.places"),  # of prepare's work
)
"""What stands in a run directory before a station has made anything."""


def started_mark(
    verb: str, stage: ModuleType, config: Config, seed: int, inputs: Mapping[str, Artifact]
) -> dict[str, str]:
    """All that decides what a station makes. A stage that reads files from outside the run directory
    has `sources(config) -> str`, a mark that changes when their content does."""
    parents = [Parent(role=role, id=made.id, path="") for role, made in inputs.items()]
    return {
        "fingerprint": fingerprint(verb, config, seed, parents, __version__),
        "sources": stage.sources(config) if hasattr(stage, "sources") else "",
    }


def read_mark(folder: Path) -> Any:
    """What `started_mark` gave when the folder's work began; None where that is not known."""
    file = folder / STARTED
    found = read_json(file) if file.is_file() else None
    return {name: found[name] for name in found if name != BEGAN} if isinstance(found, dict) else None


def is_unfinished(folder: Path, mark: Mapping[str, str]) -> bool:
    """Whether the folder holds unfinished work that the same settings and inputs began."""
    return read_mark(folder) == mark and not (folder / MANIFEST).exists()


def check_forgotten(folder: Path) -> None:
    """Refuse to work in a directory where texts are being forgotten and are not all gone."""
    file = folder / FORGETTING
    journal: dict[str, Any] = read_json(file) if file.is_file() else {"is_gone": True}
    if not journal["is_gone"]:
        command = shlex.join(["modelwright", "forget", str(folder), *journal["names"], "--yes"])
        raise UserError(f"forgetting was interrupted in {folder}. Finish it first: {command}")


@contextmanager
def nothing_left_behind(folder: Path) -> Iterator[None]:
    """A failure before anything was made takes the folders with it that were not there before."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    except Exception:
        if new and not has_work(folder):
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # somebody else has put something there
                for path in new[1:]:
                    path.rmdir()
        raise


@contextmanager
def instead_of(aside: Path | None, folder: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """Work in `folder` in the place of what was put `aside`, if anything was. Where it fails before anything
    was made, that comes back."""
    try:
        yield
    except BaseException:
        if aside is not None and not has_work(folder):
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # what is aside is whole there
                os.replace(aside, folder)
                tell(f"  nothing was made: the earlier result is back in {folder}")
                aside.parent.rmdir()
        raise


def has_work(folder: Path) -> bool:
    """Whether a run directory, or a station's folder in one, holds anything but what every station begins
    with."""
    paths = (path for path in folder.rglob("*") if path.name not in BOOKKEEPING)
    return any(path.is_symlink() or (path.is_file() and path.stat().st_size > 0) for path in paths)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time works on a run directory. The system drops the lock with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "a+", encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise UserError(
                f"process {owner} is working on {folder}. Wait for it, stop it, or choose another --out."
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
