"""POST /v1/responses: OpenAI's newer interface to the same answers. Nothing is kept between requests, so
a conversation is sent whole each time; what would need a memory is refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.types import ASGIApp

from modelwright.base.schema import Structure
from modelwright.base.seams import Tokenizer
from modelwright.server.answers import send
from modelwright.server.messages import (
    CalledFunction,
    ChatMessage,
    ChatToolCall,
    Name,
    NamedFunction,
    NamedTool,
    TextPart,
    Tool,
    ToolFunction,
    rendered,
)
from modelwright.server.protocol import (
    Drawing,
    JsonObjectFormat,
    TextFormat,
    schema_structure,
    unsupported,
)
from modelwright.server.response_items import ResponseAnswer
from modelwright.server.service import Call
from modelwright.server.turns import Toolbox
from modelwright.server.worker import copies


class InputPart(BaseModel):
    """A piece of a message; images, files and sound are refused."""

    model_config = ConfigDict(strict=True)
    type: Literal["input_text", "output_text"]
    text: str


class InputMessage(BaseModel):
    """A turn."""

    model_config = ConfigDict(strict=True)
    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[InputPart]


class InputCall(BaseModel):
    """A call that the assistant made."""

    model_config = ConfigDict(strict=True)
    type: Literal["function_call"]
    call_id: str
    name: Name
    arguments: str


class InputResult(BaseModel):
    """What a call came to."""

    model_config = ConfigDict(strict=True)
    type: Literal["function_call_output"]
    call_id: str
    output: str | list[InputPart]


Items = Annotated[list[InputMessage | InputCall | InputResult], Field(min_length=1, max_length=1000)]


class FunctionTool(BaseModel):
    """A tool on offer; here its fields lie flat."""

    model_config = ConfigDict(strict=True)
    type: Literal["function"]
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    def tool(self) -> Tool:
        """As the chat endpoint has it."""
        function = ToolFunction(name=self.name, description=self.description, parameters=self.parameters)
        return Tool(type="function", function=function)


class FunctionChoice(BaseModel):
    """The tool that must be called."""

    model_config = ConfigDict(strict=True)
    type: Literal["function"]
    name: Name


class SchemaFormat(BaseModel):
    """The answer is JSON of this schema."""

    model_config = ConfigDict(strict=True)
    type: Literal["json_schema"]
    name: Annotated[str, Field(min_length=1, max_length=64)]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class TextConfig(BaseModel):
    """What the answer must look like."""

    model_config = ConfigDict(strict=True)
    format: Annotated[TextFormat | JsonObjectFormat | SchemaFormat, Field(discriminator="type")] | None = None


class ResponseRequest(Drawing):
    """POST /v1/responses."""

    input: str | Items
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None
    text: TextConfig | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | FunctionChoice | None = None
    parallel_tool_calls: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=0)] | None = None

    def refuse_unsupported(self) -> None:
        """Raise for the first wish that cannot be honoured."""
        super().refuse_unsupported()
        if self.store:
            raise unsupported("store", "cannot be honoured: this server keeps nothing")
        if self.n not in (None, 1):
            raise unsupported("n", "belongs to /v1/chat/completions")

    def structure(self) -> Structure | None:
        """What the answer's text must be."""
        form = self.text.format if self.text else None
        if isinstance(form, SchemaFormat):
            return schema_structure(form.schema_, "text.format.schema")
        return Structure("json_object", "") if isinstance(form, JsonObjectFormat) else super().structure()

    def messages(self) -> list[ChatMessage]:
        """The input as a conversation. Calls join the assistant's turn before them."""
        turns = [ChatMessage(role="system", content=self.instructions)] if self.instructions else []
        items = [InputMessage(role="user", content=self.input)] if isinstance(self.input, str) else self.input
        for item in items:
            if isinstance(item, InputMessage):
                turns.append(ChatMessage(role=item.role, content=_text(item.content)))
            elif isinstance(item, InputResult):
                turns.append(ChatMessage(role="tool", content=_text(item.output), tool_call_id=item.call_id))
            else:
                if not turns or turns[-1].role != "assistant":
                    turns.append(ChatMessage(role="assistant", content="", tool_calls=[]))
                function = CalledFunction(name=item.name, arguments=item.arguments)
                made = ChatToolCall(id=item.call_id, function=function)
                turns[-1].tool_calls = [*(turns[-1].tool_calls or []), made]
        return turns

    def toolbox(self, tokenizer: Tokenizer) -> Toolbox:
        """The tools as the chat endpoint has them."""
        choice = self.tool_choice
        if isinstance(choice, FunctionChoice):
            choice = NamedTool(type="function", function=NamedFunction(name=choice.name))
        tools = [tool.tool() for tool in self.tools or []]
        return Toolbox.of(tools, choice, self.parallel_tool_calls, tokenizer)


def _text(content: str | list[InputPart]) -> str | list[TextPart]:
    if isinstance(content, str):
        return content
    return [TextPart(type="text", text=part.text) for part in content]


async def respond(call: Call) -> ASGIApp:
    """POST /v1/responses."""
    asked = await call.read(ResponseRequest)
    model = call.lease(asked.model, asked.cache_salt)
    toolbox = asked.toolbox(model.tokenizer)
    structure = toolbox.structure(asked.structure(), "text.format")
    ids = await rendered(model, asked.messages(), toolbox.tools)
    model.check_length(ids, "input")
    sampling = asked.sampling(
        max_tokens=asked.max_output_tokens or model.engine.max_length - len(ids),
        top_logprobs=0,
        adapter=model.adapter,
        structure=structure,
    )
    model.check_sampling(sampling)
    told = asked.model_dump(mode="json", by_alias=True, include=set(ResponseAnswer.REPEATED))
    answer = ResponseAnswer(told, copies(ids, sampling, 1), toolbox, call.envelope("resp", model))
    return await send(model, call.request, answer, stream=asked.stream)
