"""Arrays in files, with their room on the disk taken beforehand.

A mapped file may be sparse: then a full disk is only met when a page is written, as SIGBUS, which no program
can turn into a message. Taking the room first makes it an OSError.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np

_NOT_HERE = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV)
"""What file systems say that cannot take room beforehand."""
_BLOCK_BYTES = 1 << 20


def new_npy(path: Path, dtype: Any, rows: int) -> np.memmap[Any, Any]:
    """A .npy file of (rows,) zeros, mapped for writing. Raises OSError where the disk has no room for it."""
    made = np.lib.format.open_memmap(path, "w+", np.dtype(dtype), (rows,))
    take_room(path, made.offset)
    return made


def new_raw(path: Path, dtype: Any, rows: int) -> np.memmap[Any, Any]:
    """The same without a header."""
    made = np.memmap(path, np.dtype(dtype), "w+", shape=(rows,))
    take_room(path, 0)
    return made


def take_room(path: Path, start: int) -> None:
    """Take the disk's blocks for a file that is zeros from byte `start` on; its content stays as it is."""
    with open(path, "r+b") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            os.posix_fallocate(file.fileno(), 0, size)
            return
        except AttributeError:  # macOS
            pass
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise
        file.seek(start)
        for place in range(start, size, _BLOCK_BYTES):
            file.write(bytes(min(_BLOCK_BYTES, size - place)))
