"""Many turns: ShareGPT's conversations, transcripts of HH-RLHF, trees of OpenAssistant."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any, cast

from modelwright.base.schema import Conversation, Json, Message, Role
from modelwright.data.conversations.messages import (
    Fields,
    WrongRow,
    field_of,
    messages_of,
    shape,
    text_of,
    tools_of,
)

SPEAKERS = {
    **{name: "user" for name in ("human", "user", "prompter")},
    **{name: "assistant" for name in ("gpt", "assistant", "chatgpt", "bing", "bard", "model")},
    **{"system": "system", "observation": "tool", "tool": "tool"},
}
"""Who speaks in ShareGPT's rows, in our words; a `function_call` is the assistant's."""

SHAREGPT_READ = frozenset({"from", "value"})
"""What is read of a turn of ShareGPT's."""

_TURN = re.compile(r"\n\n(Human|Assistant):")


def messages(fields: Fields) -> Iterator[Conversation]:
    """`messages` in OpenAI's form, perhaps with the `tools` that may be called."""
    yield Conversation(
        messages=messages_of(field_of(fields, "messages"), "messages"), tools=tools_of(fields.get("tools"))
    )


def sharegpt(fields: Fields) -> Iterator[Conversation]:
    """`conversations`, a list of `from` and `value`; perhaps `system` and `tools` (LLaMA-Factory)."""
    said = field_of(fields, "conversations")
    if not isinstance(said, list) or not said:
        raise WrongRow("wrong messages", f"conversations is {shape(said)}, expected a list of from and value")
    turns = [_from_value(turn, f"conversations[{index}]") for index, turn in enumerate(cast(list[Any], said))]
    system = [{"role": "system", "content": fields["system"]}] if fields.get("system") else []
    yield Conversation(
        messages=messages_of([*system, *turns], "conversations"), tools=tools_of(fields.get("tools"))
    )


def _from_value(turn: Json, name: str) -> Json:
    if not isinstance(turn, dict) or not set(turn) >= SHAREGPT_READ:
        raise WrongRow("wrong messages", f'{name} is {shape(turn)}, expected {{"from", "value"}}')
    speaker, value = turn["from"], turn["value"]
    weight = {"weight": turn.get("weight")}
    if speaker == "function_call":
        try:
            calls = json.loads(text_of(value, f"{name}.value"))
        except (ValueError, RecursionError):
            raise WrongRow("wrong tool calls", f"{name}.value is {value[:80]!r}, expected JSON") from None
        return {"role": "assistant", "tool_calls": calls if isinstance(calls, list) else [calls], **weight}
    role = SPEAKERS.get(speaker, speaker) if isinstance(speaker, str) else speaker
    return {"role": role, "content": value, **weight}


def transcript(text: Json, name: str) -> tuple[Message, ...]:
    r"""A text of turns that begin with "\n\nHuman:" and "\n\nAssistant:" (arXiv 2204.05862)."""
    before, *pieces = _TURN.split(text_of(text, name))
    if before.strip() or not pieces:
        expected = "expected turns that begin with '\\n\\nHuman:' and '\\n\\nAssistant:'"
        raise WrongRow("no transcript", f"{name} begins with {text[:40]!r}, {expected}")
    turns = zip(pieces[::2], pieces[1::2], strict=True)
    found = [
        {"role": "user" if who == "Human" else "assistant", "content": said.strip()} for who, said in turns
    ]
    return messages_of(found, name)


def tree(fields: Fields) -> Iterator[Conversation]:
    """A tree of OpenAssistant (arXiv 2304.07327): every way from its first prompt down to a last answer is a
    conversation. Turns that ways share are learned in each of them. Deleted messages end their way."""
    root = field_of(fields, "prompt")
    for way in _ways(root, ()):
        yield Conversation(messages=way)


def _ways(node: Json, before: tuple[Message, ...]) -> list[tuple[Message, ...]]:
    message, replies = _node(node)
    if node.get("deleted"):
        return []
    here = (*before, message)
    longer = [way for reply in replies for way in _ways(reply, here)]
    return longer or ([here] if message.role == "assistant" else [])


def tree_pairs(
    node: Json, before: tuple[Message, ...] = ()
) -> Iterator[tuple[tuple[Message, ...], str, str]]:
    """(prompt, better, worse) of every two answers in a tree that people gave different ranks, 0 the best."""
    message, replies = _node(node)
    if node.get("deleted"):
        return
    here = (*before, message)
    ranked = [each for each in replies if not each.get("deleted") and isinstance(each.get("rank"), int)]
    for one, other in combinations(sorted(ranked, key=lambda each: each["rank"]), 2):
        if message.role == "user" and one["rank"] < other["rank"]:
            yield here, _node(one)[0].content, _node(other)[0].content
    for reply in replies:
        yield from tree_pairs(reply, here)


def _node(node: Json) -> tuple[Message, Sequence[Json]]:
    if not isinstance(node, dict) or node.get("role") not in ("prompter", "assistant"):
        raise WrongRow("wrong tree", f"a message is {shape(node)}, expected a prompter's or an assistant's")
    replies = node.get("replies") or []
    if not isinstance(replies, list) or not all(isinstance(each, dict) for each in replies):
        raise WrongRow("wrong tree", f"replies is {shape(replies)}, expected a list of messages")
    said = text_of(node.get("text"), "a message's text", empty=bool(node.get("deleted")))
    return Message(role=cast(Role, SPEAKERS[node["role"]]), content=said), cast(list[Any], replies)
