"""The application: routes, and what one process holds. `create_app` wraps it in its guards."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from modelwright.base.errors import UserError
from modelwright.inference.engine import Engine, PromptTooLong
from modelwright.server.answers import EventStream, send_whole
from modelwright.server.chat import ChatAnswer
from modelwright.server.completions import TextAnswer
from modelwright.server.errors import ApiError
from modelwright.server.front import front
from modelwright.server.guards import Access, Guard, read_body
from modelwright.server.protocol import ChatRequest, CompletionRequest, parse
from modelwright.server.replies import Envelope
from modelwright.server.worker import Prompt, QueueFull, Worker, copies
from modelwright.tokenizer.chat import render

LOG = logging.getLogger("modelwright.server")
COMPLETION_TOKENS = 16
"""OpenAI's default for /v1/completions."""


@dataclass(slots=True)
class Service:
    """What the routes share."""

    engine: Engine
    """Only its constants are read here; the worker's thread does the rest."""
    worker: Worker
    model: str
    fingerprint: str
    body_limit: int
    access: Access
    created: int = field(default_factory=lambda: int(time.time()))

    def envelope(self, prefix: str) -> Envelope:
        """A fresh answer's id, time and model."""
        return Envelope(f"{prefix}-{uuid.uuid4().hex}", int(time.time()), self.model, self.fingerprint)

    def model_card(self) -> dict[str, object]:
        """The model as /v1/models lists it."""
        return {
            "id": self.model,
            "object": "model",
            "created": self.created,
            "owned_by": "modelwright",
            "max_model_len": self.engine.max_length,
        }

    def check_length(self, ids: list[int], param: str) -> None:
        """Refuse a prompt that leaves no room, before a stream has begun."""
        try:
            self.engine.check_prompt(ids)
        except PromptTooLong as error:
            raise ApiError(400, str(error), code="context_length_exceeded", param=param) from error
        except UserError as error:
            raise ApiError(400, str(error), code="invalid_value", param=param) from error

    def check_count(self, count: int, param: str) -> None:
        """Refuse what could never fit into the queue."""
        if count > self.worker.capacity:
            raise ApiError(400, f"{count} completions asked for, at most {self.worker.capacity}", param=param)


def create_app(
    engine: Engine,
    *,
    model: str,
    access: Access,
    fingerprint: str = "",
    queue_limit: int = 128,
    body_limit: int = 1 << 20,
) -> ASGIApp:
    """The server for one engine. At most `queue_limit` completions are open (429 beyond), and a
    request's body has at most `body_limit` bytes (413 beyond)."""

    def report(error: Exception) -> None:
        LOG.error("the engine failed", exc_info=error)

    service = Service(engine, Worker(engine, queue_limit, report), model, fingerprint, body_limit, access)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        service.worker.start()
        yield
        await asyncio.to_thread(service.worker.stop)

    routes = [
        Route("/", _with(service, show_front), methods=["GET"]),
        Route("/health", _with(service, health), methods=["GET"]),
        Route("/v1/models", _with(service, list_models), methods=["GET"]),
        Route("/v1/models/{id:path}", _with(service, show_model), methods=["GET"]),
        Route("/v1/chat/completions", _with(service, chat), methods=["POST"]),
        Route("/v1/completions", _with(service, complete), methods=["POST"]),
    ]
    handlers = {
        ApiError: _api_error,
        QueueFull: _queue_full,
        HTTPException: _http_error,
        Exception: _unexpected,
    }
    return Guard(Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan), access)  # type: ignore[arg-type]


def _with(
    service: Service, handle: Callable[[Service, Request], Awaitable[ASGIApp]]
) -> Callable[[Request], Awaitable[ASGIApp]]:
    async def endpoint(request: Request) -> ASGIApp:
        return await handle(service, request)

    return endpoint


async def show_front(service: Service, request: Request) -> Response:
    """GET /."""
    return front(request, service.model if service.access.has_key(request.headers) else None)


async def health(service: Service, request: Request) -> Response:
    """Whether the engine's thread is at work."""
    alive = service.worker.alive
    return JSONResponse({"status": "ok" if alive else "stopped"}, 200 if alive else 503)


async def list_models(service: Service, request: Request) -> Response:
    """GET /v1/models."""
    return JSONResponse({"object": "list", "data": [service.model_card()]})


async def show_model(service: Service, request: Request) -> Response:
    """GET /v1/models/{id}."""
    if request.path_params["id"] != service.model:
        raise ApiError(404, f"this server has only '{service.model}'", code="model_not_found", param="model")
    return JSONResponse(service.model_card())


async def chat(service: Service, request: Request) -> ASGIApp:
    """POST /v1/chat/completions."""
    asked = parse(ChatRequest, await read_body(request, service.body_limit), service.model)
    conversation = asked.conversation()
    tokenizer = service.engine.tokenizer
    rendered = await asyncio.to_thread(render, tokenizer, conversation, add_generation_prompt=True)
    service.check_length(rendered.ids, "messages")
    sampling = asked.chat_sampling(service.engine.max_length - len(rendered.ids))
    service.check_count(asked.n or 1, "n")
    prompts = copies(rendered.ids, sampling, asked.n or 1)
    answer = ChatAnswer(asked, prompts, service.engine, service.envelope("chatcmpl"))
    if asked.stream:
        return EventStream(service.worker, answer)
    return await send_whole(service.worker, request, answer)


async def complete(service: Service, request: Request) -> ASGIApp:
    """POST /v1/completions."""
    asked = parse(CompletionRequest, await read_body(request, service.body_limit), service.model)
    texts = await asyncio.to_thread(_encoded, service, asked)
    wish = COMPLETION_TOKENS if asked.max_tokens is None else asked.max_tokens
    prompts: list[Prompt] = []
    if wish:
        sampling = asked.sampling(wish, asked.logprobs or 0)
        prompts = [prompt for _, ids in texts for prompt in copies(ids, sampling, asked.n or 1)]
    answer = TextAnswer(asked, texts, prompts, service.engine, service.envelope("cmpl"))
    scored = asked.echo and asked.logprobs is not None
    if asked.stream and (scored or not wish):
        raise ApiError(400, "a stream can neither echo log-probabilities nor have 0 tokens", param="stream")
    if asked.stream:
        return EventStream(service.worker, answer)
    if not wish and not asked.echo:
        raise ApiError(400, "'max_tokens' is 0, which makes sense only with 'echo': true", param="max_tokens")
    if scored:
        sequences, top = [ids for _, ids in texts], asked.logprobs or 0
        answer.scores = await service.worker.call(lambda engine: engine.score_with_top(sequences, top))
    return await send_whole(service.worker, request, answer)


def _encoded(service: Service, asked: CompletionRequest) -> list[tuple[str, list[int]]]:
    """Every prompt as text and ids."""
    tokenizer = service.engine.tokenizer
    texts: list[tuple[str, list[int]]] = []
    for prompt in asked.prompts():
        ids = tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        service.check_length(ids, "prompt")
        texts.append((prompt if isinstance(prompt, str) else tokenizer.decode(ids), ids))
    service.check_count(len(texts) * (asked.n or 1), "prompt")
    return texts


def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


def _queue_full(request: Request, error: Exception) -> Response:
    message = f"the queue is full: {error}; try again soon"
    return ApiError(429, message, code="queue_full", headers={"Retry-After": "1"}).response()


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return ApiError(error.status_code, error.detail, headers=error.headers).response()


def _unexpected(request: Request, error: Exception) -> Response:
    return ApiError(500, "the server failed on this request; its log says why").response()
