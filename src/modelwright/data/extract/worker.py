"""The child process: reads a job, does it, writes what came of it, until its parent closes the pipe.

Started as `python -m modelwright.data.extract.worker JOB MEMORY_BYTES`. A request is a header (seconds,
bytes) and the content; a reply is a header (status, bytes) and text in UTF-8. No pickle: what comes back
from a process that read hostile input is bytes.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import struct
import sys
from typing import BinaryIO

from modelwright.data.extract.jobs import JOBS

REQUEST = struct.Struct("!dQ")
REPLY = struct.Struct("!BQ")
READY, TEXT, NO_MEMORY, FAILED = range(4)
"""What a reply is: the child has started; the text; nothing for want of memory; what the parser said."""

GRACE_SECONDS = 5
"""How much longer than its parent a child waits before it ends itself: then the parent is dead."""

WARM_UP = {"pdf": b""}
"""A first piece of work, so that imports do not count against the first document."""


def main(job: str, memory_bytes: int) -> None:
    """Serve until the pipe is closed."""
    requests, replies = _pipes()
    with contextlib.suppress(Exception):
        JOBS[job](WARM_UP.get(job, b"<p>a</p>"))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _write(replies, READY, b"")
    while header := requests.read(REQUEST.size):
        seconds, size = REQUEST.unpack(header)
        signal.setitimer(signal.ITIMER_REAL, seconds + GRACE_SECONDS)  # ends us, even inside a C function
        try:
            status, reply = TEXT, JOBS[job](requests.read(size)).encode("utf-8", "replace")
        except MemoryError:
            status, reply = NO_MEMORY, b""
        except Exception as error:
            status, reply = FAILED, f"{type(error).__name__}: {error}"[:500].encode("utf-8", "replace")
        signal.setitimer(signal.ITIMER_REAL, 0)
        _write(replies, status, reply)


def _pipes() -> tuple[BinaryIO, BinaryIO]:
    """Our two ends of the pipes. What libraries print must not get in between."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return sys.stdin.buffer, replies


def _write(replies: BinaryIO, status: int, content: bytes) -> None:
    replies.write(REPLY.pack(status, len(content)) + content)
    replies.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
