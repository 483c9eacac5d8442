"""POST /v1/embeddings: a text as a vector, the mean of its last hidden states, of length 1."""

from __future__ import annotations

import asyncio
import base64
from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from starlette.responses import JSONResponse
from starlette.types import ASGIApp

from modelwright.server.answers import while_connected
from modelwright.server.completions import Texts, batches, texts_of
from modelwright.server.errors import ApiError
from modelwright.server.models import Lease
from modelwright.server.protocol import Asked, unsupported
from modelwright.server.replies import Json
from modelwright.server.service import Call
from modelwright.server.worker import Worker

MAX_TEXTS = 2048
"""OpenAI's limit on the texts of one request."""


class EmbeddingRequest(Asked):
    """POST /v1/embeddings."""

    input: Texts
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None
    """Keep the first so many, and make the length 1 again."""


async def embed(call: Call) -> ASGIApp:
    """POST /v1/embeddings."""
    asked = await call.read(EmbeddingRequest)
    model = call.lease(asked.model)
    if model.adapter is not None:
        raise unsupported("model", "is an adapter's, and embeddings are those of the model itself")
    sequences = await asyncio.to_thread(_encoded, model, asked.input)
    vectors = await while_connected(call.request.receive, _vectors(model.worker, sequences))
    if asked.dimensions is not None:
        vectors = _shortened(vectors, asked.dimensions)
    data = [
        {"object": "embedding", "index": index, "embedding": _written(vector, asked.encoding_format)}
        for index, vector in enumerate(vectors)
    ]
    count = sum(map(len, sequences))
    usage: Json = {"prompt_tokens": count, "total_tokens": count}
    return JSONResponse({"object": "list", "data": data, "model": model.name, "usage": usage})


async def _vectors(worker: Worker, sequences: list[list[int]]) -> np.ndarray:
    """(n, D), a batch at a time, so that those who decode have their turns between the batches."""
    found: list[np.ndarray] = []
    for batch in batches(sequences):
        found.append((await worker.call(lambda engine, batch=batch: engine.embed(batch))).numpy())
    return np.concatenate(found)


def _encoded(model: Lease, texts: Texts) -> list[list[int]]:
    prompts = texts_of(texts)
    if len(prompts) > MAX_TEXTS:
        message = f"{len(prompts)} texts in one request, at most {MAX_TEXTS}"
        raise ApiError(400, message, code="invalid_value", param="input")
    sequences = [model.tokenizer.encode(p) if isinstance(p, str) else p for p in prompts]
    for ids in sequences:
        model.check_length(ids, "input")
    return sequences


def _shortened(vectors: np.ndarray, dimensions: int) -> np.ndarray:
    """(n, dimensions), each of length 1."""
    if dimensions > vectors.shape[1]:
        message = f"'dimensions' is {dimensions}, and the model has {vectors.shape[1]}"
        raise ApiError(400, message, code="invalid_value", param="dimensions")
    short = vectors[:, :dimensions]
    length = np.linalg.norm(short, axis=1, keepdims=True)
    return short / np.maximum(length, np.finfo(np.float32).tiny)


def _written(vector: np.ndarray, encoding: Literal["float", "base64"]) -> list[float] | str:
    """A list of numbers, or the base64 of little-endian fp32."""
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return vector.tolist()
