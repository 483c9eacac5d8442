"""Values of a row to Messages, each checked, so that a row that does not fit says what is wrong with it.

The form is OpenAI's, `{"role", "content", "tool_calls", "tool_call_id"}`, as Hugging Face's data sets and
LLaMA-Factory's write it too: content may be a list of text parts, tools may be JSON as text, a call may be
the inner half alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast, get_args

from modelwright.base.errors import did_you_mean
from modelwright.base.schema import Json, Message, Role, ToolCall

Fields = Mapping[str, Json]
"""A row, under the names that its layout gives to fields."""

ROLES: tuple[str, ...] = get_args(Role)
OTHER_ROLES = {"developer": "system", "function": "tool"}
"""Names that OpenAI gives, or gave, to roles of ours."""
READ = frozenset({"role", "content", "tool_calls", "tool_call_id"})
"""What is read of a message."""


class WrongRow(Exception):
    """What is wrong with a row, and a kind to count it by."""

    def __init__(self, kind: str, problem: str) -> None:
        super().__init__(problem)
        self.kind = kind


def field_of(fields: Fields, name: str) -> Json:
    """A field that must be there."""
    if fields.get(name) is None:
        have = ", ".join(f'"{key}"' for key in list(fields)[:20]) or "no fields"
        raise WrongRow("missing field", f'no field "{name}", it has {have}')
    return fields[name]


def messages_of(value: Json, name: str) -> tuple[Message, ...]:
    """A list of messages."""
    if not isinstance(value, list) or not value:
        raise WrongRow("wrong messages", f"{name} is {shape(value)}, expected a list of messages")
    return tuple(_message(item, f"{name}[{index}]") for index, item in enumerate(cast(list[Any], value)))


def tools_of(value: Json) -> tuple[Json, ...]:
    """The tools that a row offers: a list, as it is or as JSON text; nothing where there are none."""
    if isinstance(value, str) and value.strip():
        value = _parsed(value, "tools")
    if not value:
        return ()
    if not isinstance(value, list):
        raise WrongRow("wrong tools", f"tools is {type(value).__name__}, expected a list")
    text_of(_json(value, "tools"), "tools")
    return tuple(cast(list[Any], value))


def text_of(value: Json, name: str, empty: bool = False) -> str:
    """A string with something in it, or, where it may be, an empty one."""
    if not isinstance(value, str):
        raise WrongRow("text is no string", f"{name} is {shape(value)}, expected a string")
    if not empty and not value.strip():
        raise WrongRow("empty text", f"{name} is empty")
    if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise WrongRow("not Unicode", f"{name} holds half a surrogate pair: not valid Unicode")
    return value


def _message(value: Json, name: str) -> Message:
    if not isinstance(value, dict) or "role" not in value or not {"content", "tool_calls"} & set(value):
        raise WrongRow("wrong messages", f'{name} is {shape(value)}, expected {{"role", "content"}}')
    role, content = value["role"], _content(value.get("content"), f"{name}.content")
    role = OTHER_ROLES.get(role, role) if isinstance(role, str) else role
    if role not in ROLES:
        raise WrongRow("unknown role", f"{name}: unknown role '{role}'.{did_you_mean(str(role), ROLES)}")
    if role == "assistant" and value.get("weight") == 0:
        problem = f"{name}: weight 0 asks not to learn this turn, and every turn of the assistant is learned"
        raise WrongRow("weight 0", f"{problem}. End the conversation before it, or take the weight out")
    calls = _tool_calls(value.get("tool_calls") or [], f"{name}.tool_calls")
    if calls and role != "assistant":
        raise WrongRow("wrong tool calls", f"{name}: the role '{role}' calls a tool; only the assistant may")
    may_be_empty = bool(calls) or role == "tool"  # a call needs no words, and a tool may find nothing
    said = text_of(content or "" if may_be_empty else content, f"{name}.content", may_be_empty)
    found = value.get("tool_call_id")
    return Message(
        role=cast(Role, role),
        content=said,
        tool_calls=calls,
        tool_call_id="" if found is None else str(found),
    )


def _content(value: Json, name: str) -> Json:
    """A list of text parts as one text; anything else as it is."""
    if not isinstance(value, list):
        return value
    for index, part in enumerate(cast(list[Any], value)):
        kind = part.get("type", "text") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            what = f"a part of type '{kind}'" if isinstance(kind, str) else shape(part)
            raise WrongRow("not text", f"{name}[{index}] is {what}: only text is learned")
    return "".join(part["text"] for part in cast(list[Any], value))


def _tool_calls(value: Json, name: str) -> tuple[ToolCall, ...]:
    """OpenAI's form, `{"function": {"name", "arguments"}}`, or its inner half alone, as in many data sets."""
    if not isinstance(value, list):
        raise WrongRow("wrong tool calls", f"{name} is {shape(value)}, expected a list")
    return tuple(_tool_call(item, f"{name}[{index}]") for index, item in enumerate(cast(list[Any], value)))


def _tool_call(value: Json, name: str) -> ToolCall:
    function = value.get("function") or value if isinstance(value, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise WrongRow("wrong tool calls", f'{name} is {shape(value)}, expected {{"name", "arguments"}}')
    given = function.get("arguments")
    arguments = given if isinstance(given, str) else _json(given or {}, f"{name}.arguments")
    text_of(arguments, f"{name}.arguments")
    if not isinstance(_parsed(arguments, f"{name}.arguments"), dict):
        raise WrongRow("wrong tool calls", f"{name}.arguments is {arguments[:80]!r}, expected a JSON object")
    return ToolCall(name=function["name"], arguments=arguments, id=str(value.get("id") or ""))


def _parsed(text: str, name: str) -> Json:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        kind = "wrong tools" if name == "tools" else "wrong tool calls"
        expected = "a list" if name == "tools" else "a JSON object"
        raise WrongRow(kind, f"{name} is {text[:80]!r}, expected {expected}") from None


def _json(value: Json, name: str) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise WrongRow("no JSON", f"{name} cannot be written as JSON: {error}") from None


def shape(value: Json) -> str:
    """What a value is, for an error."""
    if isinstance(value, dict):
        return "an object with " + (", ".join(f'"{key}"' for key in list(value)[:8]) or "no fields")
    return "an empty list" if value == [] else "null" if value is None else f"a {type(value).__name__}"
