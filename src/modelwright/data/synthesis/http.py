"""One POST over HTTP, bounded: a stranger's reply may be endless, huge, slow or no HTTP at all."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import SplitResult

LARGEST = 8 << 20
"""Bytes of a reply. A long answer has some hundred thousand."""
CONNECT_SECONDS = 30.0
"""Longest wait for a connection, however long an answer may take."""
PIECE = 1 << 16
LOOK = 0.2
"""Seconds between two looks at whether a request is to end."""


class Unreachable(Exception):
    """No reply came, or none that could be read to its end."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    """By their names in small letters."""
    body: bytes


def post(
    url: SplitResult,
    body: bytes,
    headers: Mapping[str, str],
    *,
    silence: float,
    deadline: float,
    stop: threading.Event,
) -> Reply:
    """Send and read the reply. `Unreachable` after `silence` seconds without a byte, `deadline` seconds in
    all, too many bytes, when `stop` is set, and wherever no reply comes. Redirects come back as they are."""
    connection = _connection(url, min(silence, CONNECT_SECONDS))
    with _Watch(connection, deadline, stop) as watch:
        try:
            connection.connect()
            watch.sock = connection.sock
            connection.sock.settimeout(silence)
            connection.request("POST", url.path, body, {"Accept-Encoding": "identity", **headers})
            reply = connection.getresponse()
            read = bytearray()
            while piece := reply.read1(PIECE):
                read += piece
                if len(read) > LARGEST:
                    raise Unreachable(f"the reply has more than {LARGEST:,} bytes")
            if reply.length:
                raise Unreachable(f"the reply breaks off {reply.length:,} bytes before its end")
        except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
            raise Unreachable(watch.said or f"{type(error).__name__}: {error}") from None
        if watch.said:
            raise Unreachable(watch.said)
    said = {name.lower(): value for name, value in reply.getheaders()}
    return Reply(reply.status, said, bytes(read))


def _connection(url: SplitResult, patience: float) -> http.client.HTTPConnection:
    host = url.hostname or ""
    if url.scheme == "http":
        return http.client.HTTPConnection(host, url.port, timeout=patience)
    return http.client.HTTPSConnection(host, url.port, timeout=patience, context=ssl.create_default_context())


class _Watch:
    """Cuts a connection when its time is over or it is to end: time limits of a socket are for one read, and
    a reply that comes byte by byte would never exceed them."""

    def __init__(
        self, connection: http.client.HTTPConnection, deadline: float, stop: threading.Event
    ) -> None:
        self._connection, self._deadline, self._stop = connection, deadline, stop
        self._over = threading.Event()
        self.sock: socket.socket | None = None
        """Of the connection; a reply that ends it takes it away from there."""
        self.said = ""
        """Why it was cut."""

    def __enter__(self) -> _Watch:
        threading.Thread(target=self._look, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._connection.close()

    def _look(self) -> None:
        end = time.monotonic() + self._deadline
        while not self._over.wait(LOOK):
            if self._stop.is_set():
                self.said = "given up"
            elif time.monotonic() > end:
                self.said = f"no whole reply in {self._deadline:g} seconds"
            if self.said and (sock := self.sock or self._connection.sock) is not None:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
                return
