"""A real server in a thread of the test's process, so that a test can look at the engine behind it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from modelwright.inference.engine import Delta, Engine
from modelwright.server.app import create_app
from modelwright.server.guards import Access
from modelwright.server.listen import Server, bind
from modelwright.server.models import Loaded, Source

MODEL = "tiny"


class Running:
    """A server in a thread of its own: its address, and the service behind it."""

    def __init__(self, sources: Sequence[Source], api_keys: Sequence[str], **settings: Any) -> None:
        self._listener = bind("127.0.0.1", 0)
        port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.port = port
        self.loaded = threading.Event()
        access = Access.of("127.0.0.1", port, api_keys, settings.pop("origins", ()))
        drain_seconds = settings.pop("drain_seconds", 30)
        app, self.service = create_app(
            sources, access=access, on_loaded=lambda _: self.loaded.set(), **settings
        )
        self.server = Server(app, self.service.drain, self.service.cut_off, drain_seconds)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self._listener]})

    def __enter__(self) -> Running:
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.should_exit = True
        self.thread.join(30)
        self._listener.close()

    def drain(self) -> None:
        """What SIGTERM does."""
        self.server.handle_exit(signal.SIGTERM, None)


def wait_for(condition: Callable[[], object], seconds: float = 20) -> None:
    """Until the condition holds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


@contextmanager
def running(engine: Engine, *, api_keys: Sequence[str] = (), **settings: Any) -> Iterator[str]:
    """The address of a server with one model, which ends with the block."""
    source = Source(MODEL, lambda: Loaded(engine, "abc"))
    with Running([source], api_keys, **settings) as server:
        assert server.loaded.wait(30)
        yield server.url


def held(engine: Engine) -> threading.Event:
    """An event that must be set for the engine to take a step; it is set at first."""
    go, step = threading.Event(), engine.step
    go.set()

    def waiting() -> list[Delta]:
        assert go.wait(30)
        return step()

    engine.step = waiting  # type: ignore[method-assign]
    return go
