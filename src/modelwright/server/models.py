"""The models of one server, each by its name, and weights exchanged while it runs.

What answers under a name is a generation: an engine in a worker's thread. A reload makes the next one
beside it. A request stays with the generation that it began with until its answer is sent; the last
one to leave a replaced generation closes it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Thread

from modelwright.base.errors import UserError
from modelwright.base.schema import Sampling
from modelwright.inference.engine import Engine, PromptTooLong
from modelwright.inference.sampling import check
from modelwright.inference.text import ByteTokenizer
from modelwright.server.errors import ApiError
from modelwright.server.meters import Meters
from modelwright.server.worker import Worker


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a folder gave."""

    engine: Engine
    fingerprint: str
    """Tells one set of weights from another."""


@dataclass(frozen=True, slots=True)
class Source:
    """A model as it was named when the server was started. Clients know the name and nothing else."""

    name: str
    load: Callable[[], Loaded]
    """Reads the folder as it is now. It takes long, and is called in a thread."""


@dataclass(eq=False, slots=True)
class Generation:
    """One set of weights at work."""

    loaded: Loaded
    worker: Worker
    created: int = field(default_factory=lambda: int(time.time()))
    users: int = 0
    free: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once nobody uses it, looked at only after it was replaced."""

    async def close(self) -> None:
        """End its thread when its last user has left, or at once when the server stops."""
        try:
            while self.users:
                self.free.clear()
                await self.free.wait()
        finally:
            await asyncio.to_thread(self.worker.stop)


@dataclass(frozen=True, slots=True)
class Lease:
    """The weights that a request works with, under the name that it asked for."""

    name: str
    adapter: str | None
    generation: Generation
    salt: str = ""
    """Prompts are shared in the cache with requests of the same."""

    @property
    def engine(self) -> Engine:
        """Only its constants are read in the event loop; the worker's thread does the rest."""
        return self.generation.loaded.engine

    @property
    def tokenizer(self) -> ByteTokenizer:
        """The model's tokenizer."""
        return self.engine.tokenizer

    @property
    def worker(self) -> Worker:
        """The engine's thread."""
        return self.generation.worker

    def check_length(self, ids: list[int], param: str) -> None:
        """Refuse a prompt that leaves no room, before a stream has begun."""
        try:
            self.engine.check_prompt(ids)
        except PromptTooLong as error:
            raise ApiError(400, str(error), code="context_length_exceeded", param=param) from error
        except UserError as error:
            raise ApiError(400, str(error), code="invalid_value", param=param) from error

    def check_sampling(self, sampling: Sampling, param: str | None = None) -> None:
        """Refuse settings that this model cannot honour, before a stream has begun."""
        try:
            check(sampling, self.engine.vocab_size)
        except UserError as error:
            raise ApiError(400, str(error), code="invalid_value", param=param) from error

    def check_count(self, count: int, param: str) -> None:
        """Refuse what could never fit into the queue."""
        if count > self.worker.capacity:
            raise ApiError(400, f"{count} answers asked for, at most {self.worker.capacity}", param=param)


async def _apart(load: Callable[[], Loaded]) -> Loaded:
    """What a load comes to, in a thread that nobody waits for when the server stops in the middle of it."""
    future: Future[Loaded] = Future()

    def work() -> None:
        try:
            future.set_result(load())
        except BaseException as error:  # also the panics of libraries in Rust
            future.set_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))

    future.set_running_or_notify_cancel()  # it cannot be cancelled any more: whoever waits just leaves
    Thread(target=work, name="loading", daemon=True).start()
    return await asyncio.wrap_future(future)


class Served:
    """A name and what answers under it now."""

    def __init__(self, source: Source, queue_limit: int, on_error: Callable[[Exception], None]) -> None:
        self.name = source.name
        self.meters = Meters()
        self.generation: Generation | None = None
        self.loading = False
        self.failure: str | None = None
        """Why the last load failed."""
        self._source, self._queue_limit, self._on_error = source, queue_limit, on_error

    async def load(self) -> None:
        """Read the folder and answer from it. If that fails, what answered before goes on answering."""
        self.loading, self.failure = True, None
        try:
            loaded = await _apart(self._source.load)
            worker = Worker(loaded.engine, self._queue_limit, self._on_error, self.meters)
            worker.start()
        except Exception as error:
            self.failure = str(error) if isinstance(error, UserError) else "the server's log says why"
            raise
        finally:
            self.loading = False
        before, self.generation = self.generation, Generation(loaded, worker)
        if before is not None:
            await before.close()

    def names(self) -> list[tuple[str, str | None]]:
        """(what clients may call it, the LoRA adapter meant): the model itself first. To clients, each
        adapter is a model of its own."""
        adapters = self.generation.loaded.engine.adapters if self.generation else ()
        return [(self.name, None), *((adapter, adapter) for adapter in adapters)]

    def check_loaded(self) -> Generation:
        """What answers, or an error where nothing does yet."""
        if self.generation is None:
            message = f"the model '{self.name}' is being loaded"
            raise ApiError(503, message, code="loading", headers={"Retry-After": "5"})
        return self.generation

    @contextmanager
    def lease(self, name: str, adapter: str | None, salt: str = "") -> Iterator[Lease]:
        """Its weights of now, for as long as the block lasts."""
        generation = self.check_loaded()
        generation.users += 1
        try:
            yield Lease(name, adapter, generation, salt)
        finally:
            generation.users -= 1
            generation.free.set()

    async def stop(self) -> None:
        """Give everything up."""
        if self.generation is not None:
            await asyncio.to_thread(self.generation.worker.stop)
