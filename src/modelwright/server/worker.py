"""The engine's own thread. Requests come from the event loop, join the running batch, and their
pieces go back to the loop.

The engine is not made for threads and does not need to be: only this thread touches it. Structures are
compiled in another, so that they hold up neither the engine nor the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypeVar

from modelwright.base.errors import UserError
from modelwright.base.room import is_out_of_memory
from modelwright.base.schema import Sampling, Structure
from modelwright.inference.engine import Delta, Engine
from modelwright.inference.sampling import BrokenModel, seed_of_copy
from modelwright.inference.structured import Matcher
from modelwright.server.meters import Meters

T = TypeVar("T")
Prompt = tuple[Sequence[int], Sampling]


def copies(prompt: Sequence[int], sampling: Sampling, count: int) -> list[Prompt]:
    """A prompt `count` times, each with a seed of its own."""
    return [(prompt, replace(sampling, seed=seed_of_copy(sampling.seed, copy))) for copy in range(count)]


class QueueFull(Exception):
    """More is asked for than the server has agreed to hold at a time."""


class EngineFailed(Exception):
    """The engine broke down under this request; the log says why."""


def as_told(error: Exception) -> Exception:
    """What a client may know of why its request failed."""
    if isinstance(error, UserError):
        return EngineFailed(str(error)) if isinstance(error, BrokenModel) else error
    if is_out_of_memory(error):
        return EngineFailed("there is not enough memory for this request: send a shorter one, or try later")
    return EngineFailed("the engine failed on this request")


@dataclass(eq=False, slots=True)
class Ticket:
    """One HTTP request's completions: one per prompt, numbered in order."""

    prompts: list[Prompt]
    matchers: list[Matcher | None]
    salt: str
    streaming: bool
    loop: asyncio.AbstractEventLoop
    inbox: asyncio.Queue[tuple[int, Delta] | Exception] = field(default_factory=asyncio.Queue)
    open: dict[int, int] = field(default_factory=dict[int, int])
    """Engine request -> number of the completion, for those not finished. The worker's own."""
    heard: dict[int, float] = field(default_factory=dict[int, float])
    """Engine request -> when its last piece came, in seconds of `time.monotonic`. The worker's own."""

    def deliver(self, item: tuple[int, Delta] | Exception) -> None:
        """Hand something to the event loop (called in the worker's thread)."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to read
            self.loop.call_soon_threadsafe(self.inbox.put_nowait, item)

    async def deltas(self) -> AsyncIterator[tuple[int, Delta]]:
        """(number of the completion, delta) until all completions are whole."""
        missing = len(self.prompts)
        while missing:
            item = await self.inbox.get()
            if isinstance(item, Exception):
                raise item
            missing -= item[1].completion is not None
            yield item


class Worker:
    """Runs an engine in a thread; at most `capacity` completions are open at a time."""

    def __init__(
        self, engine: Engine, capacity: int, on_error: Callable[[Exception], None], meters: Meters
    ) -> None:
        self._engine = engine
        self.capacity = capacity
        self._on_error, self._meters = on_error, meters
        self._orders: queue.SimpleQueue[Callable[[], bool] | None] = queue.SimpleQueue()
        """What to do between two steps; each says whether it took the engine's time. None: to end."""
        self._tickets: dict[int, Ticket] = {}
        self._open = 0
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._compiling = ThreadPoolExecutor(max_workers=1, thread_name_prefix="structures")

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def end(self) -> None:
        """Let the thread finish the step at hand, give everything else up, and end."""
        self._orders.put(None)

    def stop(self) -> None:
        """The same, and wait for it."""
        self.end()
        self._compiling.shutdown(wait=False, cancel_futures=True)
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def open(self) -> int:
        """Completions that wait or run."""
        return self._open

    async def submit(self, prompts: Sequence[Prompt], *, streaming: bool, salt: str = "") -> Ticket:
        """Take on all of a request's completions, or raise `QueueFull` and take none. Their structures are
        compiled once there is room for them (`UserError` where one cannot be enforced)."""
        self._reserve(len(prompts))
        try:
            matchers = [
                None if sampling.structure is None else await self._matcher(sampling.structure)
                for _, sampling in prompts
            ]
        except BaseException:
            self._release(len(prompts))
            raise
        ticket = Ticket(list(prompts), matchers, salt, streaming, asyncio.get_running_loop())
        self._orders.put(lambda: self._begin(ticket))
        return ticket

    async def _matcher(self, structure: Structure) -> Matcher:
        """A matcher: at once where the structure is known, else when those before it are compiled."""
        structures = self._engine.structures
        found = structures.ready(structure)
        if found is not None:
            return found

        def compiled() -> Matcher:
            try:
                return structures.matcher(structure)
            except Exception:
                raise
            except BaseException as error:  # a panic of the library in Rust
                raise RuntimeError(repr(error)) from error

        return await asyncio.get_running_loop().run_in_executor(self._compiling, compiled)

    def cancel(self, ticket: Ticket) -> None:
        """Give up what a ticket has not finished; harmless when it has finished."""
        self._orders.put(lambda: self._drop(ticket))

    async def call(self, work: Callable[[Engine], T]) -> T:
        """Run something else on the engine between two steps, such as scoring; it counts as one."""
        self._reserve(1)
        future: Future[T] = Future()

        def order() -> bool:
            self._release(1)
            if not future.set_running_or_notify_cancel():
                return False
            try:
                future.set_result(work(self._engine))
            except BaseException as error:  # also the panics of libraries in Rust
                future.set_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))
            return True

        self._orders.put(order)
        return await asyncio.wrap_future(future)

    def _reserve(self, count: int) -> None:
        with self._lock:
            if self._open + count > self.capacity:
                raise QueueFull(
                    f"{self._open} of {self.capacity} completions are open, {count} more asked for"
                )
            self._open += count

    # --- in the worker's thread

    def _run(self) -> None:
        while True:
            try:
                while not self._orders.empty() or not self._tickets:
                    order = self._orders.get()
                    if order is None:
                        self._fail(EngineFailed("the server is stopping"))
                        return
                    if order():
                        break  # those who decode have their turns between two such
                self._hand_out(self._engine.step())
            except BaseException as failure:  # the engine is in disorder; that must not end the service, and
                error = failure if isinstance(failure, Exception) else RuntimeError(repr(failure))
                self._on_error(error)  # panics of libraries in Rust are no Exceptions
                self._fail(as_told(error))

    def _begin(self, ticket: Ticket) -> bool:
        try:
            for number, (ids, sampling) in enumerate(ticket.prompts):
                matcher = ticket.matchers[number]
                request = self._engine.submit(
                    ids, sampling, streaming=ticket.streaming, salt=ticket.salt, matcher=matcher
                )
                ticket.open[request] = number
                self._tickets[request] = ticket
        except Exception as error:
            self._release(len(ticket.prompts) - len(ticket.open))
            self._refuse(ticket, error)
        return False

    def _hand_out(self, deltas: list[Delta]) -> None:
        for delta in deltas:
            ticket = self._tickets.get(delta.request)
            if ticket is None:
                continue
            if delta.error is not None:
                self._give_up(ticket, delta.request, delta.error)
                continue
            number = ticket.open[delta.request]
            self._measure(ticket, number, delta)
            if delta.completion is not None:
                self._forget(ticket, delta.request)
            ticket.deliver((number, delta))

    def _measure(self, ticket: Ticket, number: int, delta: Delta) -> None:
        if ticket.streaming:
            now = time.monotonic()
            if delta.request in ticket.heard:
                self._meters.between_tokens(now - ticket.heard[delta.request])
            ticket.heard[delta.request] = now
        if delta.completion is not None:
            self._meters.ended(len(ticket.prompts[number][0]), delta)

    def _drop(self, ticket: Ticket) -> bool:
        for request in list(ticket.open):
            self._forget(ticket, request)
            self._meters.ended_early("abort")
            self._engine.cancel(request)
        return False

    def _give_up(self, ticket: Ticket, request: int, error: Exception) -> None:
        """One of a ticket's completions failed."""
        self._forget(ticket, request)
        self._meters.ended_early("error")
        self._refuse(ticket, error)

    def _refuse(self, ticket: Ticket, error: Exception) -> None:
        """A ticket's client gets an error that is fit for it, and needs none of the completions."""
        told = as_told(error)
        if isinstance(told, EngineFailed):
            self._on_error(error)
        ticket.deliver(told)
        self._drop(ticket)

    def _fail(self, error: Exception) -> None:
        """Give everything up. An engine in disorder may fail at that too: nobody must wait for it."""
        tickets = set(self._tickets.values())
        for ticket in tickets:
            ticket.deliver(error)
        for ticket in tickets:
            try:
                self._drop(ticket)
            except Exception as again:
                self._on_error(again)

    def _forget(self, ticket: Ticket, request: int) -> None:
        del ticket.open[request], self._tickets[request]
        self._release(1)

    def _release(self, count: int) -> None:
        with self._lock:
            self._open -= count
