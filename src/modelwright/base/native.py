"""Compiles a C++ file of ours once per machine, and loads it (design/0006).

Fast paths are C++ beside a plain version in Python. The file is built by GCC at its first use, in
seconds, into a folder of the user's cache whose name holds a hash of source, flags and compiler. Where
that cannot be done `load` says why, `find` gives nothing, and callers take their plain path, which gives the
same results.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

BUILD_SECONDS = 120
"""A compiler that takes longer than this is stuck; the plain path is taken."""

SWITCH = "MODELWRIGHT_NATIVE"
"""Set to 0 in the environment to take the plain paths."""

_FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fPIC",
    "-shared",
    *(("-mprefer-vector-width=512",) if platform.machine() == "x86_64" else ()),
)
"""No -ffast-math: it would lose NaN, and a run that diverges must show it."""

_TYPES = {
    "p": ctypes.c_void_p,
    "s": ctypes.c_char_p,
    "i": ctypes.c_int64,
    "n": ctypes.c_int,
    "f": ctypes.c_float,
    "d": ctypes.c_double,
}


class Unavailable(Exception):
    """There is no compiled library, and why."""


def load(source: Path, signatures: Mapping[str, str], flags: tuple[str, ...] = ()) -> ctypes.CDLL:
    """The functions of a C++ file, each with the types of its arguments.

    A signature has a letter for each argument (pointer, string of bytes, int64, n = int, float, double)
    and, behind `>`, one for the result: "ppi>i". Raises `Unavailable`.
    """
    try:
        return _loaded(source, signatures, flags, _compiler())
    except subprocess.CalledProcessError as error:
        raise Unavailable(f"the C++ compiler failed: {(error.stderr or b'')[-200:]!r}") from error
    except (OSError, subprocess.SubprocessError, RuntimeError, ValueError, AttributeError) as error:
        raise Unavailable(str(error)) from error


def find(source: Path, signatures: Mapping[str, str], flags: tuple[str, ...] = ()) -> ctypes.CDLL | None:
    """As `load`; None where it cannot be had, and callers take their plain path."""
    try:
        return load(source, signatures, flags)
    except Unavailable:
        return None


def _compiler() -> tuple[str, ...]:
    """The command, $CXX or g++. Only GCC on Linux: its OpenMP is the very library that torch has loaded,
    where another one would bring a second pool of threads."""
    if os.environ.get(SWITCH) == "0":
        raise RuntimeError(f"switched off by {SWITCH}=0")
    if not sys.platform.startswith("linux"):
        raise RuntimeError("only on Linux")
    usual = shutil.which("g++") or shutil.which("c++") or ""
    command = tuple(shlex.split(os.environ.get("CXX") or usual))
    if not command:
        raise RuntimeError("no C++ compiler found")
    if "Free Software Foundation" not in _version(command):
        raise RuntimeError(f"{' '.join(command)} is not GCC")
    return command


def _loaded(
    source: Path, signatures: Mapping[str, str], flags: tuple[str, ...], compiler: tuple[str, ...]
) -> ctypes.CDLL:
    path = _path(source, flags, compiler)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    _refuse_a_shared_folder(path.parent)
    if not _is_whole(path):
        _build(source, flags, compiler, path)
    found = ctypes.CDLL(str(path))
    for name, signature in signatures.items():
        arguments, _, result = signature.partition(">")
        function = getattr(found, name)
        function.argtypes = [_TYPES[letter] for letter in arguments]
        function.restype = _TYPES[result] if result else None
    return found


def _refuse_a_shared_folder(folder: Path) -> None:
    """What lies there is code that this process will run: nobody else may have put it there."""
    found = folder.stat()
    if found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(f"{folder} belongs to somebody else, or others may write to it")


def _is_whole(path: Path) -> bool:
    """Whether the library is as it was built: loading one that was cut short would kill the process."""
    try:
        return path.with_suffix(".sha256").read_text() == hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, UnicodeDecodeError):
        return False


def _path(source: Path, flags: tuple[str, ...], compiler: tuple[str, ...]) -> Path:
    """Where the library for this source, compiler and machine belongs."""
    made_of = [
        source.read_text(encoding="utf-8"),
        *_FLAGS,
        *flags,
        *compiler,
        _version(compiler),
        processor(),
    ]
    name = hashlib.sha256("\0".join(made_of).encode()).hexdigest()[:24]
    return cache_folder() / "kernels" / f"{name}.so"


def _build(source: Path, flags: tuple[str, ...], compiler: tuple[str, ...], target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        made = Path(temporary) / "library.so"
        command = [*compiler, *_FLAGS, *flags, "-o", str(made), str(source)]
        subprocess.run(command, check=True, capture_output=True, timeout=BUILD_SECONDS)
        mark = Path(temporary) / "library.sha256"
        mark.write_text(hashlib.sha256(made.read_bytes()).hexdigest())
        made.replace(target)  # atomic: another process may build the same
        mark.replace(target.with_suffix(".sha256"))


@cache
def _version(compiler: tuple[str, ...]) -> str:
    done = subprocess.run(
        [*compiler, "--version"], check=True, capture_output=True, text=True, timeout=BUILD_SECONDS
    )
    return done.stdout


def processor() -> str:
    """What -march=native depends on: a home folder may be shared by machines of several kinds."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
    return "\n".join(line for line in lines if line.startswith(("model name", "flags", "Features", "CPU ")))


def cache_folder() -> Path:
    """Where this user's caches go (XDG base directories)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "modelwright"
