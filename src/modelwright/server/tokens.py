"""POST /tokenize and /detokenize: between text and ids, honest about bytes.

The fields are vLLM's; `pieces` are ours: a token may hold part of a character, and then has bytes but no
text.
"""

from __future__ import annotations

import asyncio
from typing import Annotated

from pydantic import Field
from starlette.responses import JSONResponse
from starlette.types import ASGIApp

from modelwright.inference.text import ByteTokenizer
from modelwright.server.errors import ApiError
from modelwright.server.messages import Messages, TemplateVariables, Tools, rendered
from modelwright.server.protocol import Asked
from modelwright.server.replies import Json, token_text
from modelwright.server.service import Call

Token = Annotated[int, Field(ge=0, lt=2**31)]


class TokenizeRequest(Asked):
    """POST /tokenize: a prompt, or a conversation as the chat template writes it."""

    prompt: str | None = None
    messages: Messages | None = None
    tools: Tools | None = None
    chat_template_kwargs: TemplateVariables | None = None
    add_generation_prompt: bool = True
    add_special_tokens: bool = True
    """Whether a text begins with bos, where the model is used to it; a chat template writes its own."""
    return_token_strs: bool = False
    with_pieces: bool = False


class DetokenizeRequest(Asked):
    """POST /detokenize."""

    tokens: Annotated[list[Token], Field(max_length=1_000_000)]
    with_pieces: bool = False


async def tokenize(call: Call) -> ASGIApp:
    """POST /tokenize."""
    asked = await call.read(TokenizeRequest)
    model = call.lease(asked.model)
    if (asked.prompt is None) == (asked.messages is None):
        raise ApiError(400, "give either 'prompt' or 'messages'", code="invalid_value", param="prompt")
    if asked.messages is not None:
        ids = await rendered(
            model,
            asked.messages,
            asked.tools or [],
            asked.chat_template_kwargs,
            add_generation_prompt=asked.add_generation_prompt,
        )
    else:
        encode = model.tokenizer.begin if asked.add_special_tokens else model.tokenizer.encode
        ids = await asyncio.to_thread(encode, asked.prompt or "")
    answer: Json = {"count": len(ids), "max_model_len": model.engine.max_length, "tokens": ids}
    if asked.return_token_strs:
        answer["token_strs"] = [token_text(model.tokenizer, token) for token in ids]
    if asked.with_pieces:
        answer["pieces"] = pieces(model.tokenizer, ids)
    return JSONResponse(answer)


async def detokenize(call: Call) -> ASGIApp:
    """POST /detokenize."""
    asked = await call.read(DetokenizeRequest)
    model = call.lease(asked.model)
    unknown = max(asked.tokens, default=0)
    if unknown >= model.tokenizer.vocab_size:
        message = f"token {unknown} has no text; the last that has is {model.tokenizer.vocab_size - 1}"
        raise ApiError(400, message, code="invalid_value", param="tokens")
    answer: Json = {"prompt": await asyncio.to_thread(model.tokenizer.decode, asked.tokens)}
    if asked.with_pieces:
        answer["pieces"] = pieces(model.tokenizer, asked.tokens)
    return JSONResponse(answer)


def pieces(tokenizer: ByteTokenizer, ids: list[int]) -> list[Json]:
    """Each token's bytes, and its text where these alone are text."""
    return [
        {"id": token, "text": _text(piece := tokenizer.token_bytes(token)), "bytes": list(piece)}
        for token in ids
    ]


def _text(piece: bytes) -> str | None:
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return None
