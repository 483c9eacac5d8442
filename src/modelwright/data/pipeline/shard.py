"""What a phase leaves of a unit: a folder that appears whole, with a manifest of its files."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from modelwright.base.config import Config, validate
from modelwright.base.errors import DamagedFile, UserError
from modelwright.base.files import atomic_directory, read_json, sha256_file, write_json
from modelwright.data.execution.holding import remove_leftovers

SHARD_FILE = "shard.json"
CLEAN_PHASE, WRITE_PHASE = "clean", "write"
"""Folders of the phases that leave one shard a unit, and the files of a clean one."""
DOCUMENTS, DROPPED = "documents.parquet", "dropped.parquet"
FILES = "files.jsonl"
"""Of a clean one: path, size and hash of the raw files that begin in the unit."""
HASHES, BANDS, SIGNATURES = "hashes.npy", "bands.npy", "signatures.npy"


class ShardFile(Config):
    """A file of the folder."""

    name: str
    bytes: int
    sha256: str


class Shard(Config):
    """A unit after a phase."""

    mark: str
    """Hash of all that it was made from: with another mark it is made anew."""
    rows_in: int
    rows_out: int
    bytes_out: int
    """Of text."""
    files: tuple[ShardFile, ...]
    about: dict[str, Any]
    """What the phase counted."""


def shard_folder(folder: Path, phase: str, number: int) -> Path:
    """Where a unit's folder of a phase lies."""
    return folder / phase / f"{number:06d}"


def make_shard(
    target: Path, mark: str, make: Callable[[Path], tuple[int, int, int, dict[str, Any]]]
) -> Shard:
    """The shard in `target`, made by `make(folder) -> (rows in, rows out, bytes out, about)` unless one of
    the same mark is there and whole. The caller holds the unit (`Beat`), so what lies there unfinished was
    left by the dead."""
    done = find_shard(target, mark)
    if done:
        return done
    remove_leftovers(target.parent, f"-{target.name}")
    shutil.rmtree(target, ignore_errors=True)
    with atomic_directory(target) as folder:
        rows_in, rows_out, bytes_out, about = make(folder)
        files = describe(path for path in folder.iterdir() if path.is_file())
        shard = Shard(
            mark=mark, rows_in=rows_in, rows_out=rows_out, bytes_out=bytes_out, files=files, about=about
        )
        write_json(folder / SHARD_FILE, shard.model_dump(mode="json"))
    return shard


def describe(paths: Iterable[Path]) -> tuple[ShardFile, ...]:
    """Sizes and hashes, sorted by name."""
    return tuple(
        ShardFile(name=path.name, bytes=path.stat().st_size, sha256=sha256_file(path))
        for path in sorted(paths)
    )


def find_shard(target: Path, mark: str) -> Shard | None:
    """The shard, if it was made from the same things and its files are as they were left."""
    try:
        shard = read_shard(target)
    except (UserError, OSError):
        return None
    return shard if shard.mark == mark and damage(target, shard) is None else None


def read_shard(target: Path) -> Shard:
    """The manifest of a folder."""
    return validate(Shard, read_json(target / SHARD_FILE), str(target / SHARD_FILE))


def check_shard(target: Path) -> Shard:
    """The manifest, after every file was held against it; `DamagedFile` names the first that differs."""
    shard = read_shard(target)
    problem = damage(target, shard)
    if problem:
        raise DamagedFile(f"{target / problem}. Give the same command again: the unit is made anew.")
    return shard


def check_once(target: Path) -> Shard:
    """`check_shard`, once a process for as long as the manifest stays as it is: for what every unit reads."""
    return _checked(target, (target / SHARD_FILE).stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _checked(target: Path, written: int) -> Shard:
    return check_shard(target)


def damage(target: Path, shard: Shard) -> str | None:
    """What is wrong with the files, or None."""
    for file in shard.files:
        path = target / file.name
        if not path.is_file():
            return f"{file.name} is missing"
        if path.stat().st_size != file.bytes or sha256_file(path) != file.sha256:
            return f"{file.name} is not what was written: {path.stat().st_size:,} of {file.bytes:,} bytes"
    return None
