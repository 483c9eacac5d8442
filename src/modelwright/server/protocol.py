"""What clients may ask: OpenAI's request bodies, as far as we can honour them.

Unknown fields are ignored, as OpenAI's own server does. A field that is known and that we cannot
honour is refused by name: an answer that silently disregards it would be worse than none.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from modelwright.base.schema import Conversation, Message, Role, Sampling
from modelwright.server.errors import ApiError

# Field -> the values that ask for nothing, and so can be honoured. None always can.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "reasoning_effort": ("none",),
    "verbosity": (),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "best_of": (1,),
    "suffix": ("",),
    "grammar": ("",),
    "guided_json": (),
    "guided_regex": (),
    "structured_outputs": (),
    "ignore_eos": (False,),
}


class StreamOptions(BaseModel):
    """How a stream ends."""

    model_config = ConfigDict(strict=True)
    include_usage: bool = False


Finite = Annotated[float, Field(allow_inf_nan=False)]


class Request(BaseModel):
    """What both endpoints share."""

    model_config = ConfigDict(strict=True, extra="allow")
    model: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: Annotated[Finite, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Finite, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    """-1 and 0 keep all."""
    min_p: Annotated[Finite, Field(ge=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=64)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: (
        Annotated[str, Field(min_length=1, max_length=256)]
        | Annotated[list[Annotated[str, Field(min_length=1, max_length=256)]], Field(max_length=16)]
        | None
    ) = None
    max_tokens: Annotated[int, Field(ge=0)] | None = None

    def refuse_unsupported(self) -> None:
        """Raise for the first field that we know and cannot honour."""
        for name, value in (self.model_extra or {}).items():
            if name in _NEUTRAL and value is not None and value not in _NEUTRAL[name]:
                raise ApiError(
                    400,
                    f"'{name}' is not supported by this server; leave it out",
                    code="unsupported_parameter",
                    param=name,
                )
        if self.stream_options is not None and not self.stream:
            raise ApiError(400, "'stream_options' needs 'stream': true", param="stream_options")

    def sampling(self, max_tokens: int, top_logprobs: int) -> Sampling:
        """The engine's settings; OpenAI's defaults where nothing is said (temperature 1)."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return Sampling(
            max_tokens=max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=max(self.top_k or 0, 0),
            min_p=self.min_p or 0.0,
            seed=self.seed,
            stop=tuple(stop),
            top_logprobs=top_logprobs,
        )

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a count of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage


class TextPart(BaseModel):
    """A piece of a message; images and sound are refused."""

    model_config = ConfigDict(strict=True, extra="forbid")
    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """A turn."""

    model_config = ConfigDict(strict=True, extra="allow")
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    def message(self, place: int) -> Message:
        """As our own noun; refuses what the chat template has no place for."""
        for name in ("name", "tool_calls", "function_call", "audio", "tool_call_id"):
            if (self.model_extra or {}).get(name):
                param = f"messages.{place}.{name}"
                raise ApiError(400, f"'{param}' is not supported", code="unsupported_parameter", param=param)
        text = self.content if isinstance(self.content, str) else "".join(p.text for p in self.content)
        role: Role = "system" if self.role == "developer" else self.role
        return Message(role=role, content=text)


class ChatRequest(Request):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1000)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    def conversation(self) -> Conversation:
        """The messages as one conversation."""
        return Conversation(messages=tuple(m.message(i) for i, m in enumerate(self.messages)))

    def chat_sampling(self, room: int) -> Sampling:
        """Without a wish, an answer may fill the `room` that the context leaves."""
        if self.top_logprobs and not self.logprobs:
            raise ApiError(400, "'top_logprobs' needs 'logprobs': true", param="top_logprobs")
        wish = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        if wish == 0:
            raise ApiError(400, "'max_tokens' is 0, expected at least 1", param="max_tokens")
        return self.sampling(room if wish is None else wish, self.top_logprobs or 0)


Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class CompletionRequest(Request):
    """POST /v1/completions."""

    prompt: str | Ids | Annotated[list[str], Field(min_length=1)] | Annotated[list[Ids], Field(min_length=1)]
    echo: bool = False
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    def prompts(self) -> list[str | list[int]]:
        """One or several prompts, as text or as ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [[int(token) for token in self.prompt if isinstance(token, int)]]
        return [prompt for prompt in self.prompt if not isinstance(prompt, int)]


R = TypeVar("R", bound=Request)


def parse(kind: type[R], body: bytes, model: str) -> R:
    """Body -> request, or an error that names the field and what was expected."""
    try:
        request = kind.model_validate_json(body)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False)
        # Of the branches of a union, the one that went deepest is what the client meant.
        fault = max(faults, key=lambda fault: len(_field_of(fault["loc"])))
        param = ".".join(_field_of(fault["loc"])) or None
        where = f"'{param}': " if param else "the body: "
        raise ApiError(400, f"{where}{fault['msg']}", code="invalid_value", param=param) from None
    if request.model is not None and request.model != model:
        raise ApiError(
            404,
            f"the model '{request.model[:80]}' is not served here; this server has '{model}'",
            code="model_not_found",
            param="model",
        )
    request.refuse_unsupported()
    return request


_FIELDS = frozenset(
    name
    for kind in (ChatRequest, CompletionRequest, ChatMessage, TextPart, StreamOptions)
    for name in kind.model_fields
)


def _field_of(place: tuple[int | str, ...]) -> list[str]:
    """messages, 0, content: pydantic's place without the branches of unions that it names too."""
    return [str(part) for part in place if isinstance(part, int) or part in _FIELDS]
