"""Carrying an answer to its client: whole, or in pieces as server-sent events.

Both watch whether the client is still there. When it goes, its completions are cancelled at once, so
that nobody computes for nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Coroutine
from typing import Protocol, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from modelwright.base.errors import UserError
from modelwright.inference.engine import Delta
from modelwright.server.errors import ApiError
from modelwright.server.models import Lease
from modelwright.server.replies import Json
from modelwright.server.worker import EngineFailed, Prompt, Ticket, Worker

T = TypeVar("T")


class Answer(Protocol):
    """How one endpoint says what the engine found. Completions are numbered as their prompts are."""

    prompts: list[Prompt]

    def whole(self, ends: list[Delta]) -> Json:
        """The body of an answer in one piece, from the last delta of each completion."""
        ...

    def opening(self) -> list[Json]:
        """The chunks before the first piece."""
        ...

    def piece(self, number: int, delta: Delta) -> list[Json]:
        """The chunks that tell of a delta."""
        ...

    def closing(self, ends: list[Delta]) -> list[Json]:
        """The chunks after the last piece."""
        ...


class ClientGone(Exception):
    """The client closed its connection."""


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_connected(receive: Receive, work: Coroutine[object, object, T]) -> T:
    """What `work` returns; it is given up, and `ClientGone` raised, when the client goes."""
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_until_gone(receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        for task in (working, gone):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task


async def send(model: Lease, request: Request, answer: Answer, *, stream: bool) -> ASGIApp:
    """Ask for an answer's completions and send them, in pieces or as a whole."""
    work = model.worker.submit(answer.prompts, streaming=stream, salt=model.salt)
    try:
        ticket = await while_connected(request.receive, work)
    except UserError as error:
        raise _as_told(error) from error
    if stream:
        return EventStream(model.worker, answer, ticket)
    return await _send_whole(model.worker, request, answer, ticket)


async def _send_whole(worker: Worker, request: Request, answer: Answer, ticket: Ticket) -> Response:
    """Wait for all completions and answer in one piece."""
    try:
        ends = await while_connected(request.receive, _ends_of(ticket))
    except (EngineFailed, UserError) as error:
        raise _as_told(error) from error
    finally:
        worker.cancel(ticket)
    return JSONResponse(answer.whole(ends))


async def _ends_of(ticket: Ticket) -> list[Delta]:
    """The last delta of each completion, in order."""
    ends = {number: delta async for number, delta in ticket.deltas() if delta.completion is not None}
    return [ends[number] for number in sorted(ends)]


def _as_told(error: EngineFailed | UserError) -> ApiError:
    """What went wrong in the engine, as a client is told it."""
    if isinstance(error, UserError):
        return ApiError(400, str(error), code="invalid_value")
    return ApiError(500, str(error), code="engine_failed")


class EventStream:
    """An ASGI answer of server-sent events: `data: {...}` for each chunk, then `data: [DONE]`."""

    def __init__(self, worker: Worker, answer: Answer, ticket: Ticket) -> None:
        self._worker, self._answer, self._ticket = worker, answer, ticket

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the answer ends or the client goes."""

        async def pump() -> None:
            headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            async for event in self._events():
                await send({"type": "http.response.body", "body": event.encode(), "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        try:
            with contextlib.suppress(ClientGone, OSError):
                await while_connected(receive, pump())
        finally:
            self._worker.cancel(self._ticket)

    async def _events(self) -> AsyncIterator[str]:
        answer, ends = self._answer, dict[int, Delta]()
        for chunk in answer.opening():
            yield _event(chunk)
        try:
            async for number, delta in self._ticket.deltas():
                for chunk in answer.piece(number, delta):
                    yield _event(chunk)
                if delta.completion is not None:
                    ends[number] = delta
        except (EngineFailed, UserError) as error:
            yield _event(_as_told(error).body())
        else:
            for chunk in answer.closing([ends[number] for number in sorted(ends)]):
                yield _event(chunk)
        yield "data: [DONE]\n\n"


def _event(chunk: Json) -> str:
    """A chunk as an event; chunks that name their type (of /v1/responses) give the event that name."""
    data = json.dumps(chunk, ensure_ascii=False, separators=(",", ":"))
    return f"event: {chunk['type']}\ndata: {data}\n\n" if "type" in chunk else f"data: {data}\n\n"
