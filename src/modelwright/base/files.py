"""Writes that are whole or absent, and the hashes that prove it.

Everything is written under a temporary name beside its target, flushed to the disk, and renamed. A
process killed at any moment leaves either the old file or the new one, never half of one. Temporary
names start with `.tmp-`; `remove_temporaries` clears what a killed process left.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modelwright.base.errors import DamagedFile, closest

_TEMPORARY = ".tmp-"
MANY = 1000
"""Names beside a missing one that are looked at."""


def _temporary_beside(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.parent / f"{_TEMPORARY}{uuid.uuid4().hex[:12]}-{path.name}"


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_path(path: Path) -> Generator[Path]:
    """A temporary path to write to; renamed to `path` when the block ends well, removed when not."""
    path = Path(path)
    temporary = _temporary_beside(path)
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path) -> Generator[Path]:
    """A temporary directory to fill; renamed to `path` when the block ends well, removed when not.

    An existing `path` is replaced: it is moved aside first, since a rename cannot replace a folder
    that is not empty. A kill between the two renames leaves `path` absent, never half written.
    """
    path = Path(path)
    temporary = _temporary_beside(path)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in sorted(temporary.rglob("*")):
            sync(file)
        sync(temporary)
        if path.exists():
            aside = _temporary_beside(path)
            os.replace(path, aside)
            os.replace(temporary, path)
            shutil.rmtree(aside)
        else:
            os.replace(temporary, path)
        sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def link(source: Path, target: Path) -> None:
    """The same file under another name; a copy where the file system has no links, or is another."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def name_beside(path: Path) -> str:
    """` Did you mean 'rows.csv'?`: a file or folder beside a missing one that may have been meant, else "".
    Suffixes do not count: all texts may share them."""
    beside = list(path.parent.iterdir()) if path.parent.is_dir() else []
    stems = {other.stem: other.name for other in beside[:MANY] if not other.name.startswith(".")}
    near = closest(path.stem, stems)
    return f" Did you mean '{stems[near]}'?" if near else ""


def remove_temporaries(folder: Path) -> None:
    """Remove what a killed process left unfinished directly under `folder`."""
    for left in Path(folder).glob(f"{_TEMPORARY}*"):
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink()


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON atomically; NaN and infinity are refused, since JSON has neither."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False, default=str)
    write_text(path, text + "\n")


def read_json(path: Path) -> Any:
    """Read JSON; a garbled file is a `DamagedFile` that names the place."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DamagedFile(f"{path} is not valid JSON: {error}. Restore it or make it anew.") from error


def canonical_json(content: Any) -> str:
    """The one spelling of a JSON value that is hashed: sorted keys, no spaces."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)


def sha256_text(text: str) -> str:
    """Hex sha256 of the UTF-8 bytes."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
