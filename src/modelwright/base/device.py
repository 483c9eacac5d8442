"""Which device, which number format, how many threads: chosen by measurement and announced."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import sysconfig
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch

from modelwright.base.errors import UserError
from modelwright.base.metrics import counted
from modelwright.base.native import processor

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of malloc.h."""
_LARGE = 2**17
"""Bytes from which on a tensor is mapped apart where freed memory is given back: what glibc begins with. With
1 MiB the gradients of adapters left holes of 30 MiB beside a 1B model in 4 bits (measured)."""


_BF16_UNITS = {"avx512_bf16", "amx_bf16"}
"""What an x86 processor calls units that multiply bf16."""


@dataclass(frozen=True, slots=True)
class Device:
    """Where the work runs and in which format its matrices are multiplied."""

    name: str
    """"cpu" or "cuda"."""
    dtype: torch.dtype
    threads: int
    compiler: bool
    """Whether torch.compile can work here."""
    missing: str = ""
    """What it lacks, where it cannot."""

    def summary(self) -> str:
        """What was chosen, in a few words."""
        return f"{self.name}, {counted(self.threads, 'thread')}, {str(self.dtype).removeprefix('torch.')}"

    def describe(self) -> str:
        """One line for the log of a training."""
        compile_text = "torch.compile available" if self.compiler else "no compiler: eager"
        return f"{self.summary()}, {compile_text}"


def name_of(device: str = "auto") -> str:
    """ "cpu" or "cuda": the device that is asked for, or the first accelerator there is. Raises UserError
    where this machine has none of that name. Nothing is measured or changed."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"device is 'cuda', and torch {torch.__version__} finds no GPU here: take 'cpu' or 'auto', or a "
            "torch that is built for this machine's GPU"
        )
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def choose(device: str = "auto", dtype: str = "auto") -> Device:
    """Resolve "auto": the first accelerator there is, and bf16 where it multiplies faster."""
    device = name_of(device)
    keep_freed_memory()
    chosen = bf16_is_faster(device) if dtype == "auto" else dtype == "bfloat16"
    missing = ("" if can_compile() else "a C++ compiler") if device == "cpu" else missing_for_gpu()
    return Device(
        name=device,
        dtype=torch.bfloat16 if chosen else torch.float32,
        threads=torch.get_num_threads(),
        compiler=not missing,
        missing=missing,
    )


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory for the next tensor instead of handing it back to the system.

    By default every large tensor is mapped anew and its pages are zeroed at their first use, step after
    step: a sixth of a CPU training step (measured at 4M parameters, 16 x 256 tokens). The process's size
    stays at its peak instead. Returns whether that was done; elsewhere than on Linux with glibc nothing is.
    """
    # Old versions refuse more than 32 MiB. Trimming comes last: setting it alone would freeze the mapping
    # threshold at its small beginning, which is worse than the default.
    mapped = any(_set_allocator(_MMAP_THRESHOLD, size) for size in (2**30, 2**25))
    return mapped and _set_allocator(_TRIM_THRESHOLD, 2**31 - 1)


def give_back_freed_memory() -> None:
    """The opposite, where memory is short: from now on a large tensor is mapped apart, and its memory goes
    back to the system with it."""
    _set_allocator(_MMAP_THRESHOLD, _LARGE)


@contextmanager
def freed_memory_given_back() -> Generator[None]:
    """Within, `give_back_freed_memory`: for loading.

    Whoever rounds weights as they are read makes a large tensor for each small one that stays. In one heap
    the small ones lie between the holes of the large, and training finds no use for many of the holes: 280
    MiB beside a 1B model in 4 bits (measured). Freed memory is kept afterwards (`keep_freed_memory`).
    """
    give_back_freed_memory()
    try:
        yield
    finally:
        keep_freed_memory()


def _set_allocator(parameter: int, value: int) -> bool:
    """Whether glibc's malloc took a parameter."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return mallopt is not None and mallopt(parameter, value) == 1


@cache
def bf16_is_faster(device: str) -> bool:
    """Whether products in bf16 take well under the time of those in fp32. A processor that says that it has
    units for them is believed; others are timed. Beside other work a time can mislead, and a run that is
    taken up again, or one of several processes, would compute in another format than before."""
    if device != "cpu":
        return True
    with suppress(OSError):  # only Linux tells
        if _BF16_UNITS & {*processor().split()}:
            return True
    return matmul_gflops(torch.bfloat16) > 1.3 * matmul_gflops(torch.float32)


def matmul_gflops(dtype: torch.dtype, rows: int = 2048, width: int = 512) -> float:
    """Measured CPU rate of a (rows, width) x (width, width) product, in GFLOP/s; best of five."""
    a, b = torch.ones(rows, width, dtype=dtype), torch.ones(width, width, dtype=dtype)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - start)
    return 2.0 * rows * width * width / best / 1e9


@cache
def missing_for_gpu() -> str:
    """What torch.compile lacks for a GPU, in words; "" where nothing is missing. Triton makes the kernels,
    and when the first one runs it builds what starts them, from C that includes Python.h: slim images have
    no headers, and a training would end there instead of running eagerly."""
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")  # Debian's; as Triton does
    headers = Path(sysconfig.get_paths(scheme)["include"]) / "Python.h"
    compilers = [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang"]
    found = {
        "Triton (pip install triton)": find_spec("triton") is not None,
        f"a C compiler ({' or '.join(compilers)})": any(map(shutil.which, compilers)),
        f"python's headers (python3-dev: {headers})": headers.is_file(),
    }
    return ", ".join(name for name, there in found.items() if not there)


def can_compile_for_gpu() -> bool:
    """Whether torch.compile finds all that it needs for a GPU."""
    return not missing_for_gpu()


@cache
def can_compile() -> bool:
    """Whether inductor finds a working C++ compiler."""
    from torch._inductor import cpp_builder  # private, hence guarded: absence means "no"

    try:
        return bool(cpp_builder.get_cpp_compiler())
    except Exception:
        return False
