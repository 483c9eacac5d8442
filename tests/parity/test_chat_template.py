"""Our chat template against transformers, which renders the Jinja text and tokenizes the result."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from modelwright.base.schema import Conversation, Message, Role, ToolCall
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.chat import render
from modelwright.tokenizer.learn import learn

transformers = pytest.importorskip("transformers")

WHITE_SPACE = ["", " ", "\n", "\r\n", " \n \n", "\t", "\u00a0", "\u2028", "\x1c", "\u3000\n"]
WORDS = ["Hello", "'s", "!\n", "12", "é", "日本", "😀", "\u0301x", "\x00", "\u200b\n"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[BPETokenizer, Any]:
    ours = learn(["user\nassistant\nsystem\n\n Hello there!\n\n It's 12 o'clock.\r\n\r\n" * 20], 340)
    folder = tmp_path_factory.mktemp("tokenizer")
    ours.save(folder)
    return ours, transformers.AutoTokenizer.from_pretrained(folder)


def theirs(
    tokenizer: Any,
    messages: Iterable[Message],
    add_generation_prompt: bool = False,
    tools: Iterable[Any] = (),
    parsed: bool = False,
) -> list[int]:
    """With `parsed` the arguments of calls are given as objects, as transformers likes them best."""
    ids = tokenizer.apply_chat_template(
        [row_of(message, parsed) for message in messages],
        tools=list(tools) or None,
        tokenize=True,
        return_dict=True,
        add_generation_prompt=add_generation_prompt,
    )["input_ids"]
    return list(ids)


def row_of(message: Message, parsed: bool) -> dict[str, Any]:
    """A message in OpenAI's form."""
    calls = [
        {
            "type": "function",
            "id": call.id,
            "function": {
                "name": call.name,
                "arguments": json.loads(call.arguments) if parsed else call.arguments,
            },
        }
        for call in message.tool_calls
    ]
    content = None if calls and not message.content else message.content
    return {"role": message.role, "content": content} | ({"tool_calls": calls} if calls else {})


def test_multi_turn_with_system_and_odd_white_space(pair: tuple[BPETokenizer, Any]) -> None:
    ours, other = pair
    for front in WHITE_SPACE:
        for index, word in enumerate(WORDS):
            back = WHITE_SPACE[(index + 3) % len(WHITE_SPACE)]
            roles: tuple[Role, ...] = ("system", "user", "assistant", "user", "assistant", "tool")
            messages = tuple(
                Message(role=role, content=f"{front}{word}{turn}{back}") for turn, role in enumerate(roles)
            )
            for ask in (False, True):
                rendered = render(ours, Conversation(messages=messages), add_generation_prompt=ask)
                assert theirs(other, messages, ask) == rendered.ids, repr((front, word, back))


TOOLS = (
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": 'What\'s the weather? <b>Für</b> 東京 & "co"',
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    },
    {"type": "function", "function": {"name": "clock"}},
)


@pytest.mark.parametrize("parsed", [False, True])
@pytest.mark.parametrize(
    "front", [(), (Message(role="system", content="\n s "),), (Message(role="system", content=""),)]
)
def test_tools_calls_and_their_results(
    pair: tuple[BPETokenizer, Any], front: tuple[Message, ...], parsed: bool
) -> None:
    ours, other = pair
    for index, space in enumerate(WHITE_SPACE):
        word = WORDS[index]
        arguments = json.dumps({"city": f"{space}{word}'<&", "n": [1, 2.5, None]}, ensure_ascii=False)
        call = ToolCall(name="weather", arguments=arguments, id="call_1")
        messages = (
            *front,
            Message(role="user", content=f"{word}{space}"),
            Message(role="assistant", content=f"{space}{word}!", tool_calls=(call, call)),
            Message(role="tool", content=f"{space}{word}!{space}"),
            Message(role="tool", content=word),
            Message(role="assistant", content="", tool_calls=(call,)),
            Message(role="tool", content=""),
            Message(role="assistant", content="done"),
        )
        for length in range(1, len(messages) + 1):
            for tools in ((), TOOLS):
                talk = Conversation(messages=messages[:length], tools=tools)
                rendered = render(ours, talk, add_generation_prompt=True)
                assert theirs(other, talk.messages, True, tools, parsed) == rendered.ids


def test_real_conversations(pair: tuple[BPETokenizer, Any], shared_data: Path) -> None:
    ours, other = pair
    with gzip.open(shared_data / "oasst_trees" / "sft_messages.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line)["messages"] for line in file][::9]
    for row in rows:
        messages = tuple(Message(role=m["role"], content=m["content"]) for m in row)
        assert theirs(other, messages) == render(ours, Conversation(messages=messages)).ids
    assert len(rows) > 50


def test_transformers_reads_the_folder_as_we_do(pair: tuple[BPETokenizer, Any]) -> None:
    ours, other = pair
    assert len(other) == ours.vocab_size
    assert (other.eos_token_id, other.pad_token_id, other.bos_token_id) == (ours.eos_id, ours.pad_id, None)
    assert other.chat_template == ours.chat_template
    for text in ("It's 12 o'clock.\n\n  é 😀", " , .", "don 't ?"):
        ids = ours.encode(text)
        assert other(text)["input_ids"] == ids
        assert other.decode(ids) == text
