"""Bytes by their address: a path of this machine, or a URL that fsspec knows (s3://, gs://, memory://)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from modelwright.base.errors import UserError

_MARKS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated", "created")
"""What file systems of fsspec call a value that changes with the content, the surest first."""


@dataclass(frozen=True, slots=True)
class Stat:
    """What tells whether a file is still the one that was seen."""

    size: int
    """Bytes as stored."""
    mark: str
    """Nanoseconds of the last change, or what a remote store has instead (an ETag)."""


def is_remote(path: str) -> bool:
    """Whether it is a URL, such as s3://bucket/a.jsonl."""
    return "://" in path


def file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system for a URL, and the path within it."""
    try:
        import fsspec
    except ImportError as error:
        raise UserError(f"{url}: remote files need fsspec. Run: pip install 'modelwright[data]'") from error
    try:
        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:  # s3:// needs s3fs, and fsspec says so
        raise UserError(f"{url}: cannot be opened: {error}") from error


def open_raw(path: str) -> BinaryIO:
    """The file's bytes as stored, seekable."""
    if not is_remote(path):
        return open(path, "rb")
    system, inner = file_system(path)
    return cast(BinaryIO, system.open(inner, "rb"))


def stat(path: str) -> Stat:
    """Size and mark of a file now. Raises OSError where there is none."""
    if not is_remote(path):
        found = os.stat(path)
        return Stat(found.st_size, str(found.st_mtime_ns))
    system, inner = file_system(path)
    info = system.info(inner)
    marks = [str(info[key]) for key in _MARKS if info.get(key)]
    return Stat(int(info.get("size") or 0), marks[0] if marks else "unknown")


def sha256_of(path: str, advance: Callable[[int], None] = lambda _: None) -> str:
    """Hex sha256 of a file's bytes as stored, read in pieces; `advance` is told how many bytes each has."""
    digest = hashlib.sha256()
    with open_raw(path) as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
            advance(len(piece))
    return digest.hexdigest()


def readable(path: str) -> str:
    """An address as text that can be written down: bytes that are not UTF-8 are spelled out."""
    return path.encode("utf-8", "backslashreplace").decode()
