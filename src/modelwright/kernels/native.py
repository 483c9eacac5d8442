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
import shlex
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

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


_SIGNATURES = {
    "rms_norm": "ppppiif",
    "rms_norm_backward": "ppppppii",
    "rotate": "ppppiiiiiiiiiii",
    "swiglu": "pppi",
    "swiglu_backward": "pppppi",
    "softmax": "ppiiiif",
    "softmax_backward": "pppiiiif",
    "cross_entropy": "pppipii",
}
"""Arguments of each function: pointer, int64, float. The number of threads (int) follows in all."""

_TYPES = {"p": ctypes.c_void_p, "i": ctypes.c_int64, "f": ctypes.c_float}


def usable(*tensors: Tensor) -> bool:
    """Whether the compiled functions can work on these: plain CPU tensors, all fp32 or all bf16, that are
    computed here and now. Within torch.compile inductor fuses the plain path itself; tracers, fake tensors
    and tensors of other kinds (DTensor) have no memory to read."""
    first = tensors[0].dtype
    traced = torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
    if traced or first not in _ELEMENTS:
        return False
    if any(type(t) not in _PLAIN or t.device.type != "cpu" or t.dtype != first for t in tensors):
        return False
    return _get_current_dispatch_mode() is None and library(first) is not None


_PLAIN = (Tensor, nn.Parameter)


def describe(device: str, dtype: torch.dtype) -> str:
    """For the log: whether a training on `device` in `dtype` uses the compiled kernels, and if not, why."""
    if device != "cpu" or dtype not in _ELEMENTS:
        return "plain torch"
    reason = _reasons.get(dtype, "") if library(dtype) is None else None
    return "compiled C++" if reason is None else f"plain torch, a fifth slower ({reason})"


_reasons: dict[torch.dtype, str] = {}


@cache
def library(dtype: torch.dtype) -> ctypes.CDLL | None:
    """The functions for one element type; None where they cannot be built, and `describe` says why."""
    try:
        return _loaded(_compiler(), dtype)
    except subprocess.CalledProcessError as error:
        _reasons[dtype] = f"the C++ compiler failed: {(error.stderr or b'')[-200:]!r}"
    except (OSError, subprocess.SubprocessError, RuntimeError, ValueError, AttributeError) as error:
        _reasons[dtype] = str(error)
    return None


def _compiler() -> tuple[str, ...]:
    """The command, $CXX or g++. Only GCC on Linux: its OpenMP is the very library that torch has loaded,
    where another one would bring a second pool of threads."""
    if os.environ.get("MODELWRIGHT_NATIVE") == "0":
        raise RuntimeError("switched off by MODELWRIGHT_NATIVE=0")
    if not sys.platform.startswith("linux"):
        raise RuntimeError("only on Linux")
    usual = shutil.which("g++") or shutil.which("c++") or ""
    command = tuple(shlex.split(os.environ.get("CXX") or usual))
    if not command:
        raise RuntimeError("no C++ compiler found")
    if "Free Software Foundation" not in _version(command):
        raise RuntimeError(f"{' '.join(command)} is not GCC")
    return command


def _loaded(compiler: tuple[str, ...], dtype: torch.dtype) -> ctypes.CDLL:
    path = _path(compiler, dtype)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    _refuse_a_shared_folder(path.parent)
    if not _is_whole(path):
        _build(compiler, dtype, path)
    found = ctypes.CDLL(str(path))
    for name, signature in _SIGNATURES.items():
        function = getattr(found, name)
        function.argtypes, function.restype = [*(_TYPES[c] for c in signature), ctypes.c_int], None
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


def call(name: str, dtype: torch.dtype, *arguments: Tensor | int | float | None) -> None:
    """Run one function of `native.cpp`. Tensors are passed by address: the caller has made sure of their
    types (`usable`), shapes and layout. The number of threads is added at the end."""
    found = library(dtype)
    assert found is not None
    passed = [argument.data_ptr() if isinstance(argument, Tensor) else argument for argument in arguments]
    getattr(found, name)(*passed, torch.get_num_threads())


def _path(compiler: tuple[str, ...], dtype: torch.dtype) -> Path:
    """Where the library for this source, compiler and machine belongs."""
    made_of = [
        SOURCE.read_text(encoding="utf-8"),
        *_FLAGS,
        *_ELEMENTS[dtype],
        *compiler,
        _version(compiler),
        _processor(),
    ]
    name = hashlib.sha256("\0".join(made_of).encode()).hexdigest()[:24]
    return cache_folder() / "kernels" / f"{name}.so"


def _build(compiler: tuple[str, ...], dtype: torch.dtype, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        made = Path(temporary) / "library.so"
        command = [*compiler, *_FLAGS, *_ELEMENTS[dtype], "-o", str(made), str(SOURCE)]
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


def _processor() -> str:
    """What -march=native depends on: a home folder may be shared by machines of several kinds."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
    return "\n".join(line for line in lines if line.startswith(("model name", "flags", "Features", "CPU ")))


def cache_folder() -> Path:
    """Where this user's caches go (XDG base directories)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "modelwright"
