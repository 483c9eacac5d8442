"""Compiles `native.cpp` once per machine and calls it on tensors.

Where there is no compiler, and for tensors that are not on a CPU, `usable` says no and callers take
their plain torch path; results agree within rounding. The library is built in about two seconds, in a
folder of the user's cache whose name holds a hash of source, flags and compiler.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("native.cpp")

_FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-fopenmp",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fPIC",
    "-shared",
    *(("-mprefer-vector-width=512",) if platform.machine() == "x86_64" else ()),
)
"""No -ffast-math: it would lose NaN, and a run that diverges must show it."""

_ELEMENTS = {torch.float32: (), torch.bfloat16: ("-DBFLOAT16",)}

BUILD_SECONDS = 120
"""A compiler that takes longer than this is stuck; the torch path is taken."""


def usable(*tensors: Tensor) -> bool:
    """Whether the compiled functions can work on these: CPU, fp32 or bf16, and outside of torch.compile
    (inductor fuses the plain path itself)."""
    first = tensors[0]
    if torch.compiler.is_compiling() or first.dtype not in _ELEMENTS:
        return False
    return all(t.device.type == "cpu" for t in tensors) and library(first.dtype) is not None


def describe(device: str, dtype: torch.dtype) -> str:
    """One line for the log: whether a training on `device` in `dtype` uses the compiled kernels."""
    if device != "cpu":
        return "row kernels: torch's own"
    built = dtype in _ELEMENTS and library(dtype) is not None
    return (
        "row kernels: compiled"
        if built
        else "row kernels: plain torch (no working C++ compiler), a fifth slower"
    )


@cache
def library(dtype: torch.dtype) -> ctypes.CDLL | None:
    """The functions for one element type; None where they cannot be built."""
    if not sys.platform.startswith("linux") or os.environ.get("MODELWRIGHT_NATIVE") == "0":
        return None  # elsewhere, torch brings an OpenMP of another kind than the compiler's
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        return None
    try:
        return _loaded(compiler, dtype)
    except (OSError, subprocess.SubprocessError):
        return None


def _loaded(compiler: str, dtype: torch.dtype) -> ctypes.CDLL:
    path = _path(compiler, dtype)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    _refuse_a_shared_folder(path.parent)
    if not _is_whole(path):
        _build(compiler, dtype, path)
    return ctypes.CDLL(str(path))


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


def call(name: str, dtype: torch.dtype, *arguments: Tensor | int | float | None) -> None:
    """Run one function of `native.cpp`. Tensors are passed by address and must be contiguous where the
    function walks over them; the number of threads is added at the end."""
    found = library(dtype)
    assert found is not None
    converted = [_c(argument) for argument in arguments]
    getattr(found, name)(*converted, ctypes.c_int(torch.get_num_threads()))


def _c(argument: Tensor | int | float | None) -> object:
    match argument:
        case None:
            return None
        case float():
            return ctypes.c_float(argument)
        case int():
            return ctypes.c_int64(argument)
        case _:
            return ctypes.c_void_p(argument.data_ptr())


def _path(compiler: str, dtype: torch.dtype) -> Path:
    """Where the library for this source, compiler and machine belongs."""
    made_of = [
        SOURCE.read_text(encoding="utf-8"),
        *_FLAGS,
        *_ELEMENTS[dtype],
        compiler,
        _version(compiler),
        _processor(),
    ]
    name = hashlib.sha256("\0".join(made_of).encode()).hexdigest()[:24]
    return cache_folder() / "kernels" / f"{name}.so"


def _build(compiler: str, dtype: torch.dtype, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        made = Path(temporary) / "library.so"
        command = [compiler, *_FLAGS, *_ELEMENTS[dtype], "-o", str(made), str(SOURCE)]
        subprocess.run(command, check=True, capture_output=True, timeout=BUILD_SECONDS)
        mark = Path(temporary) / "library.sha256"
        mark.write_text(hashlib.sha256(made.read_bytes()).hexdigest())
        made.replace(target)  # atomic: another process may build the same
        mark.replace(target.with_suffix(".sha256"))


def _version(compiler: str) -> str:
    done = subprocess.run(
        [compiler, "--version"], check=True, capture_output=True, text=True, timeout=BUILD_SECONDS
    )
    return done.stdout


def _processor() -> str:
    """What -march=native depends on: a home folder may be shared by machines of several kinds."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
    return "\n".join(line for line in lines if line.startswith(("model name", "flags", "Features", "CPU ")))


def cache_folder() -> Path:
    """Where this user's caches go (XDG base directories)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "modelwright"
