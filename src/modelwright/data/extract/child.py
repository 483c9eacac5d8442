"""Extraction that cannot hang, eat the memory or crash: it runs in a child process.

A child is started once per process and extractor, and reads one document after another. One that does not
answer in time, or that dies, is replaced, and costs the document that it was reading.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import subprocess
import sys
import time
from importlib.util import find_spec

from modelwright.base.errors import UserError
from modelwright.base.schema import Reason
from modelwright.data.extract.jobs import NEEDS
from modelwright.data.extract.limits import Limits
from modelwright.data.extract.worker import NO_MEMORY, READY, REPLY, REQUEST, TEXT

START_SECONDS = 120
"""A child that has not started by then never will."""

MAX_REPLY_BYTES = 1 << 30


class NotExtracted(Exception):
    """There is no text of this document, and why."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(str(reason))
        self.reason = reason


class _Died(Exception):
    """The child ended; by which signal or exit code."""


_children: dict[tuple[int, str, int], Child] = {}
"""By process, since a forked one must not talk to its parent's child; extractor; and memory."""


def extract(job: str, content: bytes, limits: Limits) -> str:
    """The text of a page (UTF-8) or PDF file. Raises `NotExtracted`.

    A crash is tried once more: another process may have killed the child, and its verdict on a document must
    not depend on that.
    """
    for attempt in (1, 2):
        child = _child(job, limits.memory_bytes)
        try:
            return child.run(content, limits.seconds_per_document)
        except NotExtracted:
            raise
        except _Died as died:
            if attempt == 2:
                raise NotExtracted(Reason("extraction crashed", str(died))) from died
    raise AssertionError("two attempts end in a return or a raise")


def _child(job: str, memory_bytes: int) -> Child:
    key = (os.getpid(), job, memory_bytes)
    child = _children.get(key)
    if child is None or not child.alive:
        package, extra = NEEDS[job]
        if find_spec(package) is None:
            raise UserError(f"'{job}' needs the package {package}. Run: pip install 'modelwright[{extra}]'")
        child = _children[key] = Child(job, memory_bytes)
    return child


class Child:
    """A process that extracts, and the pipes to it."""

    def __init__(self, job: str, memory_bytes: int) -> None:
        command = [sys.executable, "-P", "-m", "modelwright.data.extract.worker", job, str(memory_bytes)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, bufsize=0
        )
        assert self._process.stdin and self._process.stdout
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)
        self.alive = True
        self.pid = self._process.pid
        try:
            status, _ = self._exchange(b"", START_SECONDS)
        except (_Died, TimeoutError) as error:
            raise UserError(f"the child process for '{job}' does not start: {error}") from error
        assert status == READY, f"the child's first word was {status}"

    def run(self, content: bytes, seconds: float) -> str:
        """The text. Raises `NotExtracted`, or `_Died`; afterwards `alive` says whether to go on."""
        try:
            status, reply = self._exchange(REQUEST.pack(seconds, len(content)) + content, seconds)
        except TimeoutError as error:
            self.close()
            raise NotExtracted(Reason("extraction timed out", float(seconds), "seconds")) from error
        if status == TEXT:
            return reply.decode("utf-8")
        if status == NO_MEMORY:
            self.close()  # what is left of its heap is nobody's guess
            raise NotExtracted(Reason("extraction ran out of memory"))
        raise NotExtracted(Reason("extraction failed", reply.decode("utf-8", "replace")))

    def _exchange(self, request: bytes, seconds: float) -> tuple[int, bytes]:
        """Send a request, and wait for the reply while it is sent. Raises TimeoutError, `_Died`."""
        deadline = time.monotonic() + seconds
        to_send, reply = memoryview(request), bytearray()
        poll = select.poll()
        poll.register(self._out, select.POLLIN)
        if to_send:
            poll.register(self._in, select.POLLOUT)
        wanted = REPLY.size
        while len(reply) < wanted:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"no answer in {seconds} seconds")
            for ready, _ in poll.poll(left * 1000):
                if ready == self._in:
                    to_send = to_send[self._send(to_send) :]
                    if not to_send:
                        poll.unregister(self._in)
                else:
                    reply += self._receive()
            if wanted == REPLY.size and len(reply) >= REPLY.size:
                wanted += min(REPLY.unpack_from(reply)[1], MAX_REPLY_BYTES)
        return reply[0], bytes(reply[REPLY.size :])

    def _send(self, content: memoryview) -> int:
        try:
            return os.write(self._in, content[: 1 << 16])
        except BlockingIOError:
            return 0
        except BrokenPipeError:
            raise self._dead() from None

    def _receive(self) -> bytes:
        try:
            piece = os.read(self._out, 1 << 20)
        except BlockingIOError:
            return b""
        if not piece:
            raise self._dead()
        return piece

    def _dead(self) -> _Died:
        self.close(kill=False)
        code = self._process.returncode
        return _Died(signal.Signals(-code).name if code < 0 else f"exit code {code}")

    def close(self, kill: bool = True) -> None:
        """End the process and wait for it."""
        self.alive = False
        assert self._process.stdin and self._process.stdout
        if kill:
            self._process.kill()
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def close_all() -> None:
    """End all children of this process."""
    for (process, _, _), child in list(_children.items()):
        if process == os.getpid() and child.alive:
            child.close()


atexit.register(close_all)
