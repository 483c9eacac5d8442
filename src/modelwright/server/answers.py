"""Carrying an answer to its client: whole, or in pieces as server-sent events.

Both watch whether the client is still there. When it goes, its completions are cancelled at once, so
that nobody computes for nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from modelwright.base.errors import UserError
from modelwright.base.schema import Completion
from modelwright.inference.engine import Delta
from modelwright.server.errors import ApiError
from modelwright.server.replies import Json
from modelwright.server.worker import EngineFailed, Prompt, Worker


class Answer(Protocol):
    """How one endpoint says what the engine found."""

    prompts: list[Prompt]
    include_usage: bool

    def whole(self, completions: list[Completion]) -> Json:
        """The body of an answer in one piece."""
        ...

    def opening(self, number: int) -> Json | None:
        """The chunk before a completion's first piece."""
        ...

    def piece(self, number: int, delta: Delta) -> list[Json]:
        """The chunks that tell of a delta."""
        ...

    def usage_chunk(self, completions: list[Completion]) -> Json:
        """The last chunk, with the count of tokens."""
        ...


class ClientGone(Exception):
    """The client closed its connection."""


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _while_connected(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Run `work`, but give it up when the client goes."""
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_until_gone(receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        working.result()
    finally:
        for task in (working, gone):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task


async def send_whole(worker: Worker, request: Request, answer: Answer) -> Response:
    """Wait for all completions and answer in one piece."""
    ticket = worker.submit(answer.prompts, streaming=False)
    completions: dict[int, Completion] = {}

    async def collect() -> None:
        async for number, delta in ticket.deltas():
            if delta.completion is not None:
                completions[number] = delta.completion

    try:
        await _while_connected(request.receive, collect())
    except ClientGone:
        return Response(status_code=499)  # nobody reads it
    except EngineFailed as error:
        raise ApiError(500, str(error), code="engine_failed") from error
    except UserError as error:
        raise ApiError(400, str(error), code="invalid_value") from error
    finally:
        worker.cancel(ticket)
    return JSONResponse(answer.whole([completions[number] for number in sorted(completions)]))


class EventStream:
    """An ASGI answer of server-sent events: `data: {...}` for each chunk, then `data: [DONE]`."""

    def __init__(self, worker: Worker, answer: Answer) -> None:
        self._worker, self._answer = worker, answer
        self._ticket = worker.submit(answer.prompts, streaming=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the answer ends or the client goes."""

        async def pump() -> None:
            headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            async for event in self._events():
                body = f"data: {event}\n\n".encode()
                await send({"type": "http.response.body", "body": body, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        try:
            with contextlib.suppress(ClientGone, OSError):
                await _while_connected(receive, pump())
        finally:
            self._worker.cancel(self._ticket)

    async def _events(self) -> AsyncIterator[str]:
        answer, completions = self._answer, list[Completion]()
        for number in range(len(answer.prompts)):
            if (opening := answer.opening(number)) is not None:
                yield _json(opening)
        try:
            async for number, delta in self._ticket.deltas():
                for chunk in answer.piece(number, delta):
                    yield _json(chunk)
                if delta.completion is not None:
                    completions.append(delta.completion)
        except (EngineFailed, UserError) as error:
            yield _json(ApiError(500, str(error), code="engine_failed").body())
        else:
            if answer.include_usage:
                yield _json(answer.usage_chunk(completions))
        yield "[DONE]"


def _json(content: Json) -> str:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))
