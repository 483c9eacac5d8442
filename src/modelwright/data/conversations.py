"""Conversations and preference pairs from JSON Lines and Parquet.

Conversations are rows in OpenAI's form, `{"messages": [{"role": ..., "content": ...}, ...]}`, with `tools`
and calls of them (`tool_calls`) where there are any.
Preferences are rows in TRL's: `{"prompt", "chosen", "rejected"}`, each a string or messages, or only
`chosen` and `rejected` as whole conversations that begin alike.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast, get_args

from modelwright.base.errors import UserError, did_you_mean
from modelwright.base.policy import ANYTHING, Policy, judge_texts
from modelwright.base.provenance import personal_data_flag
from modelwright.base.schema import Conversation, Json, Message, Preference, Role, ToolCall
from modelwright.data.readers.faults import Faults
from modelwright.data.readers.files import find_files
from modelwright.data.readers.records import read_rows
from modelwright.data.readers.rows import Row, known
from modelwright.data.readers.source import Source

NESTED = ("jsonl", "parquet")
"""Formats whose rows may hold lists."""

ROLES: tuple[str, ...] = get_args(Role)

T = TypeVar("T", Conversation, Preference)


class _WrongRow(Exception):
    """What is wrong with a row, and a kind to count it by."""

    def __init__(self, kind: str, problem: str) -> None:
        super().__init__(problem)
        self.kind = kind


def read_conversations(
    sources: Sequence[Source], faults: Faults | None = None, policy: Policy = ANYTHING
) -> list[Conversation]:
    """All conversations of the files, in order. Each has an assistant's turn to learn from. Rows that state
    what the policy does not allow are passed over, and counted by `faults`."""
    return list(_read(sources, _conversation, faults or Faults(), policy))


def read_preferences(
    sources: Sequence[Source], faults: Faults | None = None, policy: Policy = ANYTHING
) -> list[Preference]:
    """All preference pairs of the files, in order, but for those that the policy does not allow."""
    return list(_read(sources, _preference, faults or Faults(), policy))


def _read(sources: Sequence[Source], make: Callable[[Row], T], faults: Faults, policy: Policy) -> Iterator[T]:
    judge = judge_texts(policy)
    for source in sources:
        for file in find_files(source, faults):
            if file.format not in NESTED:
                raise UserError(f"{file.path}: conversations are read from {', '.join(NESTED)} files")
            for row in read_rows(file, faults):
                its = known(row, source)
                breach = judge(its.licence, its.jurisdiction, personal_data_flag(its.personal_data))
                if breach:
                    faults.pass_over(breach.as_reason(), row.where)
                    continue
                try:
                    yield _with_facts(make(row), its)
                except _WrongRow as wrong:
                    faults(wrong.kind, row.where, str(wrong))


def _with_facts(made: T, source: Source) -> T:
    """What is known of a source goes with each of its rows, for the roll-up of what was learned from."""
    facts: dict[str, Json] = {
        name: getattr(source, name) for name in ("licence", "jurisdiction", "personal_data")
    }
    facts["source"] = source.name
    return replace(made, meta={**made.meta, **facts})


def _conversation(row: Row) -> Conversation:
    messages = _messages(_field(row, "messages"), "messages")
    if not any(message.role == "assistant" for message in messages):
        raise _WrongRow("no assistant turn", "no message has the role 'assistant': there is nothing to learn")
    tools = row.fields.get("tools") or []
    if not isinstance(tools, list):
        raise _WrongRow("wrong tools", f"tools is {type(tools).__name__}, expected a list")
    _check_text(json.dumps(tools, ensure_ascii=False), "tools")
    return Conversation(messages=messages, tools=tuple(tools), meta=_meta(row, "messages", "tools"))


def _preference(row: Row) -> Preference:
    if "prompt" in row.fields:
        prompt = _prompt(row.fields["prompt"])
        chosen = _answer(_field(row, "chosen"), "chosen", prompt)
        rejected = _answer(_field(row, "rejected"), "rejected", prompt)
    else:
        whole = [_messages(_field(row, name), name) for name in ("chosen", "rejected")]
        prompt = whole[0][:-1]
        if not prompt:
            raise _WrongRow("no prompt", "no prompt: 'chosen' holds a single message")
        chosen, rejected = (_ending(messages, prompt, "the two") for messages in whole)
    if chosen == rejected:
        raise _WrongRow("no difference", "chosen and rejected are the same text: there is nothing to prefer")
    judge, method = (str(row.fields.get(name) or "unknown") for name in ("judge", "method"))
    meta = _meta(row, "prompt", "chosen", "rejected", "judge", "method")
    return Preference(prompt=prompt, chosen=chosen, rejected=rejected, judge=judge, method=method, meta=meta)


def _field(row: Row, name: str) -> Json:
    if name not in row.fields:
        have = ", ".join(f'"{key}"' for key in list(row.fields)[:20]) or "no fields"
        raise _WrongRow("missing field", f'no field "{name}", it has {have}')
    return row.fields[name]


def _prompt(value: Json) -> tuple[Message, ...]:
    if not isinstance(value, str):
        return _messages(value, "prompt")
    _check_text(value, "prompt")
    return (Message(role="user", content=value),)


def _answer(value: Json, name: str, prompt: tuple[Message, ...]) -> str:
    """A string, one assistant message, or the prompt and then one assistant message."""
    if isinstance(value, str):
        _check_text(value, name)
        return value
    messages = _messages(value, name)
    return _ending(messages, prompt if len(messages) > 1 else (), name)


def _ending(messages: tuple[Message, ...], prompt: tuple[Message, ...], name: str) -> str:
    if messages[:-1] != prompt or messages[-1].role != "assistant":
        raise _WrongRow(
            "wrong answer", f"{name}: expected the prompt's messages and then one by the assistant"
        )
    return messages[-1].content


def _messages(value: Json, name: str) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise _WrongRow("wrong messages", f"{name} is {_shape(value)}, expected a list of messages")
    return tuple(_message(item, f"{name}[{index}]") for index, item in enumerate(cast(list[Any], value)))


def _message(value: Json, name: str) -> Message:
    if not isinstance(value, dict) or "role" not in value or not {"content", "tool_calls"} & set(value):
        raise _WrongRow("wrong messages", f'{name} is {_shape(value)}, expected {{"role", "content"}}')
    role, content = value["role"], cast(Any, value.get("content"))
    if role not in ROLES:
        raise _WrongRow("unknown role", f"{name}: unknown role '{role}'.{did_you_mean(str(role), ROLES)}")
    calls = _tool_calls(value.get("tool_calls") or [], f"{name}.tool_calls")
    if calls and role != "assistant":
        raise _WrongRow("wrong tool calls", f"{name}: the role '{role}' calls a tool; only the assistant may")
    if calls or role == "tool":
        content = content or ""  # a call needs no words, and a tool may find nothing
    _check_text(content, f"{name}.content", empty=bool(calls) or role == "tool")
    found = value.get("tool_call_id")
    return Message(
        role=role, content=content, tool_calls=calls, tool_call_id="" if found is None else str(found)
    )


def _tool_calls(value: Json, name: str) -> tuple[ToolCall, ...]:
    """OpenAI's form, `{"function": {"name", "arguments"}}`, or its inner half alone, as in many data sets."""
    if not isinstance(value, list):
        raise _WrongRow("wrong tool calls", f"{name} is {_shape(value)}, expected a list")
    return tuple(_tool_call(item, f"{name}[{index}]") for index, item in enumerate(cast(list[Any], value)))


def _tool_call(value: Json, name: str) -> ToolCall:
    function = value.get("function") or value if isinstance(value, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise _WrongRow("wrong tool calls", f'{name} is {_shape(value)}, expected {{"name", "arguments"}}')
    given = function.get("arguments")
    arguments = given if isinstance(given, str) else json.dumps(given or {}, ensure_ascii=False)
    _check_text(arguments, f"{name}.arguments")
    try:
        parsed = json.loads(arguments)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        raise _WrongRow("wrong tool calls", f"{name}.arguments is {arguments[:80]!r}, expected a JSON object")
    return ToolCall(name=function["name"], arguments=arguments, id=str(value.get("id") or ""))


def _check_text(value: Json, name: str, empty: bool = False) -> None:
    if not isinstance(value, str):
        raise _WrongRow("text is no string", f"{name} is {_shape(value)}, expected a string")
    if not empty and not value.strip():
        raise _WrongRow("empty text", f"{name} is empty")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise _WrongRow("not Unicode", f"{name} holds half a surrogate pair: not valid Unicode")


def _shape(value: Json) -> str:
    if isinstance(value, dict):
        return "an object with " + (", ".join(f'"{key}"' for key in list(value)[:8]) or "no fields")
    return "an empty list" if value == [] else "null" if value is None else f"a {type(value).__name__}"


def _meta(row: Row, *used: str) -> dict[str, Json]:
    return {
        "file": row.part.file,
        "place": row.place,
        **{name: value for name, value in row.fields.items() if name not in used and _is_small(value)},
    }


def _is_small(value: Json) -> bool:
    return isinstance(value, bool | int | float) or (isinstance(value, str) and 0 < len(value) <= 500)
