"""POST /v1/chat/completions: a conversation in, the assistant's next turn out."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.types import ASGIApp

from modelwright.base.schema import Completion, Structure
from modelwright.inference.engine import Delta
from modelwright.server.answers import send
from modelwright.server.errors import ApiError
from modelwright.server.messages import Messages, NamedTool, TemplateVariables, Tools, rendered
from modelwright.server.models import Lease
from modelwright.server.protocol import Drawing, JsonObjectFormat, LogprobsMode, TextFormat, schema_structure
from modelwright.server.replies import Envelope, Json, chat_logprobs, completion_of, logprobs_of, usage
from modelwright.server.service import Call
from modelwright.server.turns import Toolbox, Turn
from modelwright.server.worker import Prompt, copies
from modelwright.tokenizer.tool_calls import CallBegun, Piece, Words


class JsonSchema(BaseModel):
    """A schema with a name."""

    model_config = ConfigDict(strict=True)
    name: Annotated[str, Field(min_length=1, max_length=64)]
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class JsonSchemaFormat(BaseModel):
    """The answer is JSON of this schema. It is always enforced, `strict` or not."""

    model_config = ConfigDict(strict=True)
    type: Literal["json_schema"]
    json_schema: JsonSchema


Format = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


class ChatRequest(Drawing):
    """POST /v1/chat/completions."""

    messages: Messages
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    logprobs_mode: LogprobsMode | None = None
    response_format: Format | None = None
    tools: Tools | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: TemplateVariables | None = None

    def refuse_unsupported(self) -> None:
        """Raise for the first wish that cannot be honoured."""
        super().refuse_unsupported()
        if self.top_logprobs and not self.logprobs:
            raise ApiError(400, "'top_logprobs' needs 'logprobs': true", param="top_logprobs")
        if self.logprobs_mode and not self.logprobs:
            raise ApiError(400, "'logprobs_mode' needs 'logprobs': true", param="logprobs_mode")
        if self.response_format is not None and self.structured_outputs is not None:
            message = "'response_format' and 'structured_outputs' both say what the answer must be"
            raise ApiError(400, message, code="invalid_value", param="response_format")

    def structure(self) -> Structure | None:
        """What the answer's text must be."""
        if isinstance(self.response_format, JsonSchemaFormat):
            schema = self.response_format.json_schema.schema_
            return schema_structure(schema, "response_format.json_schema.schema")
        if isinstance(self.response_format, JsonObjectFormat):
            return Structure("json_object", "")
        return super().structure()


async def chat(call: Call) -> ASGIApp:
    """POST /v1/chat/completions."""
    asked = await call.read(ChatRequest)
    model = call.lease(asked.model, asked.cache_salt)
    toolbox = Toolbox.of(asked.tools or [], asked.tool_choice, asked.parallel_tool_calls, model.tokenizer)
    structure = toolbox.structure(asked.structure(), "response_format")
    ids = await rendered(model, asked.messages, toolbox.tools, asked.chat_template_kwargs)
    model.check_length(ids, "messages")
    wish = asked.max_tokens if asked.max_completion_tokens is None else asked.max_completion_tokens
    sampling = asked.sampling(
        max_tokens=model.engine.max_length - len(ids) if wish is None else wish,
        top_logprobs=asked.top_logprobs or 0,
        adapter=model.adapter,
        structure=structure,
    )
    model.check_sampling(sampling)
    model.check_count(asked.n or 1, "n")
    prompts = copies(ids, sampling, asked.n or 1)
    answer = ChatAnswer(asked, prompts, toolbox, model, call.envelope("chatcmpl", model))
    return await send(model, call.request, answer, stream=asked.stream)


class ChatAnswer:
    """Chat completions as OpenAI's clients read them."""

    def __init__(
        self,
        request: ChatRequest,
        prompts: list[Prompt],
        toolbox: Toolbox,
        model: Lease,
        envelope: Envelope,
    ) -> None:
        self.prompts = prompts
        self._include_usage = request.include_usage
        self._logprobs = bool(request.logprobs)
        self._mode: LogprobsMode | None = request.logprobs_mode
        self._model, self._envelope = model, envelope
        self._turns = [Turn(toolbox) for _ in prompts]

    def whole(self, ends: list[Delta]) -> Json:
        """A `chat.completion`."""
        choices = [self._choice(index, end) for index, end in enumerate(ends)]
        return self._envelope.wrap("chat.completion", choices, usage=self._usage(ends))

    def opening(self) -> list[Json]:
        """The chunks that name the role."""
        return [self._chunk(n, {"role": "assistant", "content": ""}) for n in range(len(self.prompts))]

    def piece(self, number: int, delta: Delta) -> list[Json]:
        """New words and calls, then the reason why it ended."""
        turn, ended = self._turns[number], delta.completion
        told = [self._told(turn, piece) for piece in turn.take(delta.text, last=ended is not None)]
        explained = self._explain(delta)
        if not told and explained and explained["content"]:
            told = [{"content": ""}]  # tokens without text of their own have probabilities too
        chunks = [
            self._chunk(number, said, logprobs=explained if place == 0 else None)
            for place, said in enumerate(told)
        ]
        if ended is not None:
            chunks.append(self._chunk(number, {}, finish_reason=turn.finish_reason(ended)))
        return chunks

    def closing(self, ends: list[Delta]) -> list[Json]:
        """The count of tokens, without choices."""
        if not self._include_usage:
            return []
        return [self._envelope.wrap("chat.completion.chunk", [], usage=self._usage(ends))]

    def _choice(self, index: int, end: Delta) -> Json:
        completion, turn = completion_of(end), self._turns[index]
        turn.take(completion.text, last=True)
        content = turn.words or (None if turn.calls else "")
        message: Json = {"role": "assistant", "content": content, "refusal": None}
        if turn.calls:
            message["tool_calls"] = [
                {
                    "id": made.id,
                    "type": "function",
                    "function": {"name": made.name, "arguments": made.arguments},
                }
                for made in turn.calls
            ]
        return {
            "index": index,
            "message": message,
            "finish_reason": turn.finish_reason(completion),
            "logprobs": self._explain(completion),
        }

    @staticmethod
    def _told(turn: Turn, piece: Piece) -> Json:
        """A piece as the `delta` of a chunk."""
        if isinstance(piece, Words):
            return {"content": piece.text}
        if isinstance(piece, CallBegun):
            begun: Json = {"id": turn.calls[piece.index].id, "type": "function"}
            return {
                "tool_calls": [
                    {"index": piece.index, **begun, "function": {"name": piece.name, "arguments": ""}}
                ]
            }
        return {"tool_calls": [{"index": piece.index, "function": {"arguments": piece.text}}]}

    def _chunk(
        self, number: int, delta: Json, *, finish_reason: str | None = None, logprobs: Json | None = None
    ) -> Json:
        choice = {"index": number, "delta": delta, "finish_reason": finish_reason, "logprobs": logprobs}
        more: Json = {"usage": None} if self._include_usage else {}
        return self._envelope.wrap("chat.completion.chunk", [choice], **more)

    def _explain(self, said: Delta | Completion) -> Json | None:
        """Log-probabilities of the message's tokens: the token that ends the turn is not part of it."""
        if not self._logprobs:
            return None
        ids, (logprobs, top) = said.ids, logprobs_of(said, self._mode)
        [_, sampling], *_ = self.prompts
        count = len(ids) - (bool(ids) and ids[-1] in self._model.engine.ends(sampling))
        return chat_logprobs(self._model.tokenizer, ids[:count], logprobs[:count], top[:count])

    def _usage(self, ends: list[Delta]) -> Json:
        return usage(len(self.prompts[0][0]), ends, len(self.prompts))
