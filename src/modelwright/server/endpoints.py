"""What an endpoint is, and the handlers of those that say something about the server itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from modelwright.server.errors import ApiError
from modelwright.server.meters import CONTENT_TYPE, exposition
from modelwright.server.models import Generation, Served
from modelwright.server.protocol import Asked
from modelwright.server.replies import Json
from modelwright.server.service import Call, Service


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A route: what is asked, who answers, and what the description of the interface says of it."""

    method: str
    path: str
    says: str
    handle: Callable[[Call], Awaitable[ASGIApp]]
    asks: type[Asked] | None = None
    """The request's body, where it has one."""
    answers: tuple[str, ...] = ()
    """What every good answer in JSON has."""
    media_types: tuple[str, ...] = ("application/json",)
    status: int = 200


@dataclass(frozen=True, slots=True)
class Answering:
    """An endpoint of a service, as an ASGI application."""

    endpoint: Endpoint
    service: Service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; what the call holds is let go when the answer is sent."""
        with ExitStack() as held:
            response = await self.endpoint.handle(Call(self.service, Request(scope, receive), held))
            await response(scope, receive, send)


async def health(call: Call) -> Response:
    """GET /health: 200 where requests are taken."""
    state = call.service.state
    return JSONResponse({"status": state}, 200 if state == "ok" else 503)


async def metrics(call: Call) -> Response:
    """GET /metrics."""
    models = {
        served.name: (served.generation.loaded.engine.stats(), served.meters)
        for served in call.service.models.values()
        if served.generation is not None
    }
    return Response(exposition(models), media_type=CONTENT_TYPE)


def _card(served: Served, generation: Generation, name: str, adapter: str | None) -> Json:
    """A model as /v1/models lists it."""
    return {
        "id": name,
        "object": "model",
        "created": generation.created,
        "owned_by": "modelwright",
        "parent": None if adapter is None else served.name,
        "max_model_len": generation.loaded.engine.max_length,
        "fingerprint": generation.loaded.fingerprint,
        "reloading": served.loading,
        "reload_error": served.failure,
    }


async def list_models(call: Call) -> Response:
    """GET /v1/models: those that answer now."""
    cards = [
        _card(served, served.generation, name, adapter)
        for served in call.service.models.values()
        if served.generation is not None
        for name, adapter in served.names()
    ]
    return JSONResponse({"object": "list", "data": cards})


async def show_model(call: Call) -> Response:
    """GET /v1/models/{id}."""
    served, name, adapter = call.service.find(call.request.path_params["id"])
    return JSONResponse(_card(served, served.check_loaded(), name, adapter))


class ReloadRequest(Asked):
    """POST /reload."""


async def reload(call: Call) -> Response:
    """POST /reload: read a model's folder again. It says at once that it has begun; /v1/models/{id} says
    how it went."""
    asked = await call.read(ReloadRequest)
    if asked.model is None:
        raise ApiError(400, "'model' is missing", code="invalid_value", param="model")
    call.service.reload(asked.model)
    return JSONResponse({"model": asked.model, "status": "loading"}, 202)
