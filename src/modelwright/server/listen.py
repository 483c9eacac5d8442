"""Listening: the socket first, since the guards must know the port, then the server on it.

A connection that makes the server wait is ended: one that does not finish its request, one that does
not read its answer, and every one beyond the limit. SIGTERM drains: see `Server.handle_exit`.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Literal

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from modelwright.base.errors import UserError
from modelwright.server.errors import ApiError
from modelwright.server.guards import BODY_SECONDS, SECURITY_HEADERS

HEAD_SECONDS = 10
"""How long a request's head may take to arrive."""
READ_SECONDS = 30
"""How long a client may leave its answer unread once the buffers are full."""
MAX_CONNECTIONS = 512
MAX_HEAD = 16 * 1024
"""Bytes of a request's head."""


def bind(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 lets the system choose one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host.strip("[]"), port))
    except OSError as error:
        listener.close()
        raise UserError(
            f"cannot listen on {host} port {port}: {error.strerror or error}. Take another --port (0 lets "
            "the system choose)."
        ) from error
    return listener


class Connection(H11Protocol):
    """uvicorn's connection, which waits for nobody for ever."""

    _owed: Literal["head", "body"] | None = None
    """The part of a request that the client is late with when `_owing` runs out."""
    _owing: asyncio.TimerHandle | None = None
    _reader_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request, or say at once that there is no room."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            message = f"{MAX_CONNECTIONS} connections are open, which is the limit"
            self._refuse(ApiError(503, message, code="busy", headers={"Retry-After": "1"}))
        else:
            self._wait_for("head", HEAD_SECONDS)

    def data_received(self, data: bytes) -> None:
        """Take in data. The client's time runs while it owes the rest of a request, however it drips."""
        super().data_received(data)
        if self.conn.their_state is h11.SEND_BODY:
            # Where a handler reads the body, it answers 408 a little earlier by itself.
            self._wait_for("body", BODY_SECONDS + 5)
        elif self.conn.their_state is h11.IDLE and self.timeout_keep_alive_task is None:
            self._wait_for("head", HEAD_SECONDS)
        else:
            self._wait_for(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        self._wait_for(None)
        self.resume_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client does not read: wait a little, then hang up."""
        super().pause_writing()
        if self._reader_timer is None:
            self._reader_timer = self.loop.call_later(READ_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads again."""
        if self._reader_timer is not None:
            self._reader_timer.cancel()
            self._reader_timer = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP is told so, in the form of all our errors (uvicorn calls this in its handler)."""
        error = sys.exception()
        status = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
        self._refuse(ApiError(status, f"this is no HTTP request that we read: {error}", code="bad_request"))

    def _wait_for(self, part: Literal["head", "body"] | None, seconds: float = 0) -> None:
        """Begin to wait for a part of a request, unless that has begun already; None: nothing is owed."""
        if part == self._owed:
            return
        if self._owing is not None:
            self._owing.cancel()
        self._owed = part
        self._owing = None if part is None else self.loop.call_later(seconds, self._out_of_time)

    def _out_of_time(self) -> None:
        self._refuse(ApiError(408, "the request took too long to arrive", code="timeout"))

    def _refuse(self, error: ApiError) -> None:
        """Answer without asking the application, and hang up."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()
            return
        answer = error.response()
        headers = [*answer.headers.items(), *SECURITY_HEADERS.items(), ("Connection", "close")]
        body = bytes(answer.body)
        head = h11.Response(status_code=error.status, headers=headers)
        for event in (head, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class Server(uvicorn.Server):
    """uvicorn, which drains on SIGTERM: no new requests, the open ones come to their end, exit 0. On Ctrl-C
    it first has the open ones ended (`on_cut`), so that their clients hear of it."""

    def __init__(
        self,
        app: ASGIApp,
        on_drain: Callable[[], None],
        on_cut: Callable[[], None],
        drain_seconds: float = 30,
    ) -> None:
        config = uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            lifespan="on",
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=3,
            h11_max_incomplete_event_size=MAX_HEAD,
        )
        super().__init__(config)
        self._on_drain, self._on_cut, self._drain_seconds = on_drain, on_cut, drain_seconds
        self._drain_until: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM drains, a second one and Ctrl-C stop at once."""
        if sig == signal.SIGTERM and self._drain_until is None:
            self._drain_until = time.monotonic() + self._drain_seconds
            self._on_drain()
        else:
            self._on_cut()
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Whether to end (asked ten times a second)."""
        return await super().on_tick(counter) or self._is_drained()

    def _is_drained(self) -> bool:
        if self._drain_until is None:
            return False
        return not self.server_state.tasks or time.monotonic() > self._drain_until
