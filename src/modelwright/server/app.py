"""The application: routes, and what one process holds. `create_app` wraps it in its guards."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from modelwright.server import meters
from modelwright.server.answers import ClientGone
from modelwright.server.chat import ChatRequest, chat
from modelwright.server.completions import CompletionRequest, complete
from modelwright.server.embeddings import EmbeddingRequest, embed
from modelwright.server.endpoints import (
    Answering,
    Endpoint,
    ReloadRequest,
    health,
    list_models,
    metrics,
    reload,
    show_model,
)
from modelwright.server.errors import ApiError
from modelwright.server.front import front
from modelwright.server.guards import Access, Guard
from modelwright.server.models import Source
from modelwright.server.openapi import describe
from modelwright.server.responses import ResponseRequest, respond
from modelwright.server.service import Call, Service
from modelwright.server.tokens import DetokenizeRequest, TokenizeRequest, detokenize, tokenize
from modelwright.server.worker import EngineFailed, QueueFull


async def show_front(call: Call) -> Response:
    """GET /."""
    service = call.service
    models = list(service.models) if service.access.has_key(call.request.headers) else None
    told = {f"{e.method} {e.path.replace(':path}', '}')}": e.says for e in ENDPOINTS if e.path != "/"}
    return front(call.request, told, models)


async def show_description(call: Call) -> Response:
    """GET /openapi.json."""
    return JSONResponse(describe(ENDPOINTS))


_ANSWER = ("id", "object", "created", "model", "choices", "usage")
_STREAM = ("application/json", "text/event-stream")
ENDPOINTS = (
    Endpoint("POST", "/v1/chat/completions", "answer a conversation", chat, ChatRequest, _ANSWER, _STREAM),
    Endpoint("POST", "/v1/completions", "continue a text", complete, CompletionRequest, _ANSWER, _STREAM),
    Endpoint(
        *("POST", "/v1/responses", "answer a conversation; nothing is kept", respond, ResponseRequest),
        *(("id", "object", "output", "status", "usage"), _STREAM),
    ),
    Endpoint("POST", "/v1/embeddings", "texts as vectors", embed, EmbeddingRequest, ("data", "usage")),
    Endpoint("GET", "/v1/models", "which models are served", list_models, answers=("object", "data")),
    Endpoint("GET", "/v1/models/{id:path}", "one of them", show_model, answers=("id", "object")),
    Endpoint("POST", "/tokenize", "a text as tokens", tokenize, TokenizeRequest, ("tokens", "count")),
    Endpoint("POST", "/detokenize", "tokens as a text", detokenize, DetokenizeRequest, ("prompt",)),
    Endpoint("POST", "/reload", "read a model again", reload, ReloadRequest, ("status",), status=202),
    Endpoint("GET", "/health", "whether requests are taken", health, answers=("status",)),
    Endpoint("GET", "/metrics", "counts for Prometheus", metrics, media_types=(meters.CONTENT_TYPE,)),
    Endpoint("GET", "/openapi.json", "this interface, described", show_description, answers=("paths",)),
    Endpoint(*("GET", "/", "what this server is", show_front), media_types=("application/json", "text/html")),
)


def create_app(
    sources: Sequence[Source],
    *,
    access: Access,
    queue_limit: int = 128,
    body_limit: int = 1 << 20,
    share_cache: bool = False,
    on_loaded: Callable[[Exception | None], None] = lambda error: None,
) -> tuple[ASGIApp, Service]:
    """The server for some models, loaded while /health says so; `on_loaded` is told how that went.

    At most `queue_limit` completions are open for a model (429 beyond), and a request's body has at
    most `body_limit` bytes (413 beyond). With `share_cache`, what is computed of a prompt is found by clients
    with other keys too, who can tell by its speed that somebody has sent it.
    """
    service = Service(
        sources,
        access,
        queue_limit=queue_limit,
        body_limit=body_limit,
        share_cache=share_cache,
        on_loaded=on_loaded,
    )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        service.start()
        yield
        await service.stop()

    routes = [Route(e.path, Answering(e, service), methods=[e.method]) for e in ENDPOINTS]
    handlers = {
        ApiError: _api_error,
        QueueFull: _queue_full,
        EngineFailed: _engine_failed,
        HTTPException: _http_error,
        ClientGone: _nobody_there,
        ClientDisconnect: _nobody_there,
        Exception: _unexpected,
    }
    app = Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)  # type: ignore[arg-type]
    return Guard(app, access), service


def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


def _queue_full(request: Request, error: Exception) -> Response:
    message = f"the queue is full: {error}; try again soon"
    return ApiError(429, message, code="queue_full", headers={"Retry-After": "1"}).response()


def _engine_failed(request: Request, error: Exception) -> Response:
    return ApiError(500, str(error), code="engine_failed").response()


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    asked = f"{request.method} {request.url.path[:80]}"
    message = f"{error.detail}: {asked} is no endpoint here; GET / lists them"
    return ApiError(error.status_code, message, headers=error.headers).response()


def _nobody_there(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it


def _unexpected(request: Request, error: Exception) -> Response:
    return ApiError(500, "the server failed on this request; its log says why").response()
