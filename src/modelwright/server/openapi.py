"""GET /openapi.json: the interface described in OpenAPI 3.1, made from the routes and their requests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic.json_schema import models_json_schema

from modelwright import __version__
from modelwright.server.endpoints import Endpoint
from modelwright.server.guards import OPEN_PATHS
from modelwright.server.replies import Json

REFUSALS = {
    "400": "The request makes no sense or asks for what cannot be honoured; `param` names the field.",
    "401": "A key is needed.",
    "403": "This Host name, or this web page, is not allowed.",
    "404": "There is no such model.",
    "408": "The request took too long to arrive.",
    "409": "The model is being loaded already.",
    "413": "The request is too large.",
    "415": "The body is not announced as JSON.",
    "429": "The queue is full; see Retry-After.",
    "500": "The server failed; its log says why.",
    "503": "The model is being loaded, or the server is being stopped; see Retry-After.",
}
ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_REF = "#/components/schemas/{model}"


def describe(endpoints: Iterable[Endpoint]) -> Json:
    """The whole document."""
    endpoints = list(endpoints)
    kinds = [(kind, "validation") for kind in dict.fromkeys(e.asks for e in endpoints if e.asks)]
    _, schemas = models_json_schema(kinds, ref_template=_REF)  # type: ignore[arg-type]
    paths: dict[str, Json] = {}
    for endpoint in endpoints:
        path = endpoint.path.replace(":path}", "}")
        paths.setdefault(path, {})[endpoint.method.lower()] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Modelwright", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": {**schemas.get("$defs", {}), "Error": ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(endpoint: Endpoint) -> Json:
    good = {
        "description": endpoint.says,
        "content": {media: {"schema": _answer(endpoint, media)} for media in endpoint.media_types},
    }
    operation: dict[str, Any] = {
        "summary": endpoint.says,
        "operationId": endpoint.handle.__name__,
        "responses": {
            str(endpoint.status): good,
            **{status: _refusal(says) for status, says in REFUSALS.items()},
        },
    }
    if endpoint.path not in OPEN_PATHS:
        operation["security"] = [{"key": []}, {}]  # {}: a server without keys asks for none
    if endpoint.path == "/health":
        operation["responses"]["503"] = good
    if "{id" in endpoint.path:
        operation["parameters"] = [
            {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
        ]
    if endpoint.asks is not None:
        schema = {"$ref": _REF.format(model=endpoint.asks.__name__)}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return operation


def _answer(endpoint: Endpoint, media: str) -> Json:
    if media == "application/json":
        return {"type": "object", "required": list(endpoint.answers)}
    return {"type": "string"}


def _refusal(says: str) -> Json:
    schema = {"$ref": _REF.format(model="Error")}
    return {"description": says, "content": {"application/json": {"schema": schema}}}
