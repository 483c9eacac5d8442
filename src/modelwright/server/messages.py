"""Conversations as clients send them: turns, tools, and what an answer must look like."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from modelwright.base.errors import UserError
from modelwright.base.schema import Conversation, Message, Role, ToolCall
from modelwright.server.errors import ApiError
from modelwright.server.models import Lease
from modelwright.server.protocol import unsupported
from modelwright.tokenizer.chat import Templated, render

Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class TextPart(BaseModel):
    """A piece of a message; images and sound are refused."""

    model_config = ConfigDict(strict=True, extra="forbid")
    type: Literal["text"]
    text: str


class CalledFunction(BaseModel):
    """What a call was of; the arguments are JSON, as text."""

    model_config = ConfigDict(strict=True)
    name: Name
    arguments: str


class ChatToolCall(BaseModel):
    """A call that the assistant made."""

    model_config = ConfigDict(strict=True)
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(BaseModel):
    """A turn."""

    model_config = ConfigDict(strict=True, extra="allow")
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    tool_calls: Annotated[list[ChatToolCall], Field(max_length=128)] | None = None
    tool_call_id: str | None = None

    def message(self, place: int) -> Message:
        """As our own noun; refuses what the chat template has no place for."""
        for name in ("name", "function_call", "audio"):
            if (self.model_extra or {}).get(name):
                raise unsupported(f"messages.{place}.{name}", "is not supported")
        self._check_tools(place)
        if self.content is None and not self.tool_calls:
            param = f"messages.{place}.content"
            raise ApiError(400, f"'{param}' is missing", code="invalid_value", param=param)
        content = self.content or ""
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        role: Role = "system" if self.role == "developer" else self.role
        calls = tuple(
            ToolCall(name=call.function.name, arguments=call.function.arguments, id=call.id)
            for call in self.tool_calls or ()
        )
        return Message(role=role, content=text, tool_calls=calls, tool_call_id=self.tool_call_id or "")

    def _check_tools(self, place: int) -> None:
        """Calls are the assistant's, and what they came to is a tool's."""
        for name, role in (("tool_calls", "assistant"), ("tool_call_id", "tool")):
            if getattr(self, name) and self.role != role:
                param = f"messages.{place}.{name}"
                message = f"'{param}' belongs to role '{role}', not to '{self.role}'"
                raise ApiError(400, message, code="invalid_value", param=param)


TemplateVariables = Annotated[dict[Name, Any], Field(max_length=16)]
"""What a chat template takes besides the conversation, such as Qwen3's `enable_thinking`."""
MAX_VARIABLES = 10_000
"""Characters of all of them, as JSON."""
_SET_HERE = ("messages", "tools", "documents", "add_generation_prompt")

Messages = Annotated[list[ChatMessage], Field(min_length=1, max_length=1000)]


class ToolFunction(BaseModel):
    """What may be called."""

    model_config = ConfigDict(strict=True, extra="allow")
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(BaseModel):
    """A tool on offer; functions are the only kind."""

    model_config = ConfigDict(strict=True)
    type: Literal["function"]
    function: ToolFunction

    def offered(self) -> dict[str, Any]:
        """As the chat template writes it."""
        function = {"name": self.function.name}
        if self.function.description is not None:
            function["description"] = self.function.description
        parameters = self.function.parameters or {"type": "object", "properties": {}}
        return {"type": "function", "function": function | {"parameters": parameters}}

    def enforced(self) -> dict[str, Any]:
        """As what an answer's calls are held to."""
        offered = self.offered()
        return offered | {"function": offered["function"] | {"strict": bool(self.function.strict)}}


Tools = Annotated[list[Tool], Field(max_length=128)]


class NamedFunction(BaseModel):
    """The name of a function."""

    model_config = ConfigDict(strict=True)
    name: Name


class NamedTool(BaseModel):
    """The tool that must be called."""

    model_config = ConfigDict(strict=True)
    type: Literal["function"]
    function: NamedFunction


def conversation(messages: Sequence[ChatMessage], tools: Sequence[Tool]) -> Conversation:
    """Messages and tools as one conversation."""
    names = [tool.function.name for tool in tools]
    if len(set(names)) < len(names):
        raise ApiError(400, "two tools have the same name", code="invalid_value", param="tools")
    return Conversation(
        messages=tuple(message.message(place) for place, message in enumerate(messages)),
        tools=tuple(tool.offered() for tool in tools),
    )


async def rendered(
    model: Lease,
    messages: Sequence[ChatMessage],
    tools: Sequence[Tool],
    variables: TemplateVariables | None = None,
    *,
    add_generation_prompt: bool = True,
) -> list[int]:
    """A conversation as the model's ids (made in a thread: it may be long)."""
    turns = conversation(messages, tools)
    _check_variables(model, variables or {})
    try:
        whole = await asyncio.to_thread(
            render,
            model.tokenizer,
            turns,
            add_generation_prompt=add_generation_prompt,
            variables=variables or {},
        )
    except UserError as error:
        raise ApiError(400, str(error), code="invalid_value", param="messages") from error
    return whole.ids


def _check_variables(model: Lease, variables: TemplateVariables) -> None:
    """Refuse variables that the model's chat template does not read: they would change nothing. Those that
    the server sets itself are no client's."""
    tokenizer = model.tokenizer
    imported = tokenizer.imported if isinstance(tokenizer, Templated) else None
    for name in variables:
        param = f"chat_template_kwargs.{name}"
        if name in _SET_HERE or name.endswith("_token"):
            raise unsupported(param, "is set by the server itself; leave it out")
        if imported is None or not imported.reads(name):
            raise unsupported(param, "is not read by this model's chat template; leave it out")
    if len(json.dumps(variables)) > MAX_VARIABLES:
        message = f"'chat_template_kwargs' has more than {MAX_VARIABLES:,} characters"
        raise ApiError(400, message, code="invalid_value", param="chat_template_kwargs")
