"""A full disk, and memory that has ended: told from other failures, and said with what to do."""

from __future__ import annotations

import errno
import os
import re
import resource
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from modelwright.base.errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No room on the device, in the user's quota, or under the process's limit of a file's size."""
_NO_MEMORY = (
    "allocate memory",  # torch's on a CPU, and the system's
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
"""What stands in an error where memory was what failed."""
_SAID_BY_RUST = re.compile(r"\(os error (\d+)\)")
"""safetensors says a failed write in words, with the system's number behind them."""


def is_full(error: Exception) -> bool:
    """Whether a write failed for want of room. numpy says no more than how many items it wrote."""
    if not isinstance(error, OSError):
        number = _SAID_BY_RUST.search(str(error))
        return number is not None and int(number[1]) in _FULL
    short_write = error.errno is None and " requested and " in str(error) and "written" in str(error)
    return error.errno in _FULL or short_write


def disk_full(folder: Path) -> str:
    """What to say when nothing more can be written."""
    about = os.statvfs(folder)
    free = about.f_bavail * about.f_frsize
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    limited = "" if limit == resource.RLIM_INFINITY else f" (no file may be over {limit:,} bytes: ulimit -f)"
    return (
        f"the disk is full: {free:,} bytes are left at {folder}{limited}. Make room and give the same "
        "command again: what was finished is kept."
    )


@contextmanager
def saying_when_full(folder: Path) -> Generator[None]:
    """A write in the block that finds no room raises a `UserError`, and so does a tensor that finds none."""
    try:
        yield
    except Exception as error:
        if is_full(error):
            raise UserError(disk_full(folder)) from error
        if is_out_of_memory(error):
            raise UserError(
                f"memory has ended: {str(error).splitlines()[0]}. `modelwright plan` says what a recipe"
                " needs, by part, and what would make it fit"
            ) from error
        raise


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory was what failed: Python's or torch's own error, or that of a library which found none
    for itself."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's
        return True
    return isinstance(error, RuntimeError | OSError) and any(words in str(error) for words in _NO_MEMORY)
