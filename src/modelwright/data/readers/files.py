"""Which files a source names."""

from __future__ import annotations

import fnmatch
import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from modelwright.base.errors import UserError
from modelwright.base.files import name_beside
from modelwright.base.schema import Reason
from modelwright.data.readers.faults import Faults
from modelwright.data.readers.git import tracked_files
from modelwright.data.readers.source import Format, Source, format_of, suffixes_known
from modelwright.data.readers.storage import file_system, is_remote, readable

LINKED_TWICE = "symbolic link to what is read already"


@dataclass(frozen=True, slots=True, order=True)
class File:
    """A file of a source."""

    name: str
    """Its path within the source's folder, with forward slashes."""
    path: str
    """Where it is opened."""
    format: Format


def find_files(source: Source, faults: Faults | None = None) -> list[File]:
    """The files of a source, sorted by name. A file that is named must be readable; in folders and globs,
    hidden files and other suffixes are passed over, but something must be left. Links are followed, and
    each real file is read once; `faults`, where given, counts what was passed over for that."""
    base, found = _remote(source) if is_remote(source.path) else _local(source, faults or Faults())
    found = list(found)
    by_suffix = glob.has_magic(source.path) and format_of(source.path, True) is not None  # *.json names them
    readable_files = sorted(
        File(_name(path, base), path, kind)
        for path in found
        if (kind := source.format or format_of(path, is_named=by_suffix or path == base))
    )
    if readable_files:
        return readable_files
    others = sorted({"".join(PurePath(path).suffixes[-2:]) or "no suffix" for path in found})[:8]
    if len(found) == 1 and found[0].endswith(source.path):
        raise UserError(f"{source.path}: the suffix '{others[0]}' is not known.{suffixes_known()}")
    seen = f"{len(found)} files with {', '.join(others)}" if found else "no files"
    raise UserError(f"source '{source.path}': nothing to read, found {seen}.{suffixes_known()}")


def _name(path: str, base: str) -> str:
    within = PurePath(path).name if path == base else path[len(base) :].lstrip("/")
    return readable(PurePath(within).as_posix())


def _remote(source: Source) -> tuple[str, Iterable[str]]:
    """(the folder that names start behind, all files) of a URL."""
    system, inner = file_system(source.path)
    try:
        if glob.has_magic(source.path):
            base = os.path.dirname(inner[: glob.magic_check.search(inner).start()])  # type: ignore[union-attr]
            names = [name for found in system.glob(inner) for name in system.find(found)]
        else:
            base, names = inner, system.find(inner)
    except OSError as error:
        raise UserError(f"source '{source.path}': cannot be listed: {error}") from error
    visible = sorted({name for name in names if not _hidden(name[len(base) :])})
    if not visible and not glob.has_magic(source.path):
        raise UserError(f"source '{source.path}': no such file or folder.")
    return system.unstrip_protocol(base), [system.unstrip_protocol(name) for name in visible]


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _local(source: Source, faults: Faults) -> tuple[str, Iterable[str]]:
    """(the folder that names start behind, all files) of a path of this machine."""
    path = Path(source.path).expanduser()
    if path.is_file():
        return str(path), [str(path)]
    if source.format == "code" and path.is_dir():
        return str(path), tracked_files(str(path))
    if path.is_dir():
        return str(path), Walk(faults).below(str(path))
    if not glob.has_magic(source.path):
        raise UserError(f"source '{source.path}': no such file or folder.{name_beside(path)}")
    parts = path.parts
    fixed = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    base = str(Path(*parts[:fixed]))
    if source.format == "code":
        trees = filter(os.path.isdir, _matching(base, parts[fixed:]))
        return base, (file for tree in trees for file in tracked_files(tree))
    walk = Walk(faults)
    return base, (file for found in _matching(base, parts[fixed:]) for file in walk.below(found))


class Walk:
    """Files below folders, hidden ones left out, each real file once however many links lead to it."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._seen: set[str] = set()

    def below(self, path: str) -> Iterator[str]:
        """The file itself, or all files of the folder. Links are followed last, so that where a file has a
        name without a link, that one is kept."""
        waiting = [path]
        for path in waiting:  # grows while it is gone through
            real = os.path.realpath(path)
            if os.path.isdir(real) and real not in self._seen:
                yield from self._folder(path, waiting)
            elif os.path.isfile(real) and real not in self._seen:
                self._seen.add(real)
                yield path
            elif os.path.islink(path):
                rule = LINKED_TWICE if real in self._seen else "symbolic link to nothing"
                self._faults.pass_over(Reason(rule), readable(path))

    def _folder(self, folder: str, links: list[str]) -> Iterator[str]:
        for directory, folders, files in os.walk(folder):
            real = os.path.realpath(directory)
            if real in self._seen:
                folders.clear()
                continue
            self._seen.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            links += (link for name in folders if os.path.islink(link := os.path.join(directory, name)))
            for name in sorted(name for name in files if not name.startswith(".")):
                path = os.path.join(directory, name)
                if os.path.islink(path):
                    links.append(path)
                elif (real_file := os.path.join(real, name)) not in self._seen and os.path.isfile(path):
                    self._seen.add(real_file)
                    yield path


def _matching(base: str, pattern: tuple[str, ...]) -> Iterator[str]:
    """Files and folders that a pattern matches. `**` does not follow links: those of Python's `glob` lead
    it in circles."""
    if not pattern:
        yield base
        return
    piece, rest = pattern[0], pattern[1:]
    if piece == "**":
        for directory, folders, _ in os.walk(base):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            yield from _matching(directory, rest)
    elif glob.has_magic(piece):
        names = sorted(os.listdir(base)) if os.path.isdir(base) else []
        for name in fnmatch.filter(names, piece):
            if not name.startswith(".") or piece.startswith("."):
                yield from _matching(os.path.join(base, name), rest)
    elif os.path.exists(path := os.path.join(base, piece)):
        yield from _matching(path, rest)
