"""Conversations become token ids and a loss mask, here and nowhere else.

Finetune, align, evaluate and serve all call `render`. A model that came with a template of its own keeps it
(`tokenizer.imported`); the rest of this file is ours. `CHAT_TEMPLATE` is the same template in Jinja for
everybody else's programs, and a test holds the two to the same ids. The format is ChatML:

    <|im_start|>user
    What is the capital of France?<|im_end|>
    <|im_start|>assistant
    Paris.<|im_end|>

Tools are offered, called and answered as Hermes and Qwen do it, so that programs which know their format
know ours (`tokenizer.tool_calls` reads the calls):

    <|im_start|>system
    # Tools ... <tools>
    {"type": "function", "function": {"name": "weather", ...}}
    </tools> ...<|im_end|>
    <|im_start|>assistant
    <tool_call>
    {"name": "weather", "arguments": {"city": "Paris"}}
    </tool_call><|im_end|>
    <|im_start|>user
    <tool_response>
    12 degrees, rain
    </tool_response><|im_end|>

Three rules keep it honest. The special tokens are written as ids and the words between them as plain
text, so nobody can smuggle a turn into a message by typing `<|im_end|>`. Messages lose the white
space at both ends, so that the tokens of an answer never depend on the line break before it: what is
trained is what will be generated. And the ids of a conversation are a prefix of the ids of the same
conversation with one more turn (the results of several calls are one turn).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol, runtime_checkable

from modelwright.base.errors import UserError
from modelwright.base.schema import Conversation, Json, Message, ToolCall
from modelwright.base.seams import Tokenizer
from modelwright.tokenizer.imported import ImportedTemplate

END_OF_TEXT = "<|endoftext|>"
"""Ends a document. Also the padding token."""
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
"""Ends a turn: generation of an answer stops here."""
SPECIAL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END)
"""In the order of their ids: 0, 1, 2 in a vocabulary that we learn."""

CALL_START, CALL_END = "<tool_call>", "</tool_call>"
TOOLS_BEFORE = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
)
TOOLS_AFTER = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    f"{CALL_START}{CALL_END} XML tags:\n{CALL_START}\n"
    f'{{"name": <function-name>, "arguments": <args-json-object>}}\n{CALL_END}'
)
"""Qwen's words around the tools, letter for letter: models and programs know them."""


def _quoted(text: str) -> str:
    """Text as a string of Jinja."""
    return "'" + text.replace("\n", "\\n") + "'"


CHAT_TEMPLATE = (
    "{% if tools %}"
    "{{ '<|im_start|>system\\n' }}"
    "{% if messages and messages[0]['role'] == 'system' and messages[0]['content'] | trim %}"
    "{{ messages[0]['content'] | trim + '\\n\\n' }}"
    "{% endif %}"
    "{{ " + _quoted(TOOLS_BEFORE) + " }}"
    "{% for tool in tools %}{% if not loop.first %}{{ '\\n' }}{% endif %}{{ tool | tojson }}{% endfor %}"
    "{{ " + _quoted(TOOLS_AFTER) + " + '<|im_end|>' + '\\n' }}"
    "{% endif %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'tool' %}"
    "{% if loop.first or messages[loop.index0 - 1]['role'] != 'tool' %}{{ '<|im_start|>user' }}{% endif %}"
    "{{ '\\n<tool_response>\\n' + message['content'] | trim + '\\n</tool_response>' }}"
    "{% if loop.last or messages[loop.index0 + 1]['role'] != 'tool' %}{{ '<|im_end|>' + '\\n' }}{% endif %}"
    "{% elif not (tools and loop.first and message['role'] == 'system') %}"
    "{% set content = (message['content'] or '') | trim %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + content }}"
    "{% for entry in message['tool_calls'] or [] %}"
    "{% set call = entry['function'] or entry %}"
    "{% if content or not loop.first %}{{ '\\n' }}{% endif %}"
    "{{ '<tool_call>\\n{\"name\": ' }}{{ call['name'] | tojson }}{{ ', \"arguments\": ' }}"
    "{% if call['arguments'] is string %}{{ call['arguments'] }}"
    "{% else %}{{ call['arguments'] | tojson }}{% endif %}"
    "{{ '}\\n</tool_call>' }}"
    "{% endfor %}"
    "{{ '<|im_end|>' + '\\n' }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""The template in Jinja. There is no default system prompt: what is not said is not there."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as tokens."""

    ids: list[int]
    mask: list[bool]
    """True where the token is supervised: what the assistant says and calls, and the token that ends its
    turn. With a generation prompt, and a template that is not ours, nowhere."""


@runtime_checkable
class Templated(Protocol):
    """A tokenizer that may have come with a chat template of its own."""

    @property
    def imported(self) -> ImportedTemplate | None: ...


def render(
    tokenizer: Tokenizer,
    conversation: Conversation,
    *,
    add_generation_prompt: bool = False,
    variables: Mapping[str, Json] | None = None,
) -> Rendered:
    """A conversation -> ids and loss mask, of equal length.

    With `add_generation_prompt` the ids end where the assistant's next answer begins. `variables` are what an
    imported template takes besides, such as Qwen3's `enable_thinking`.
    """
    imported = tokenizer.imported if isinstance(tokenizer, Templated) else None
    if imported is not None:
        if add_generation_prompt:
            ids = imported.ids(conversation, True, variables)
            return Rendered(ids, [False] * len(ids))
        return Rendered(*imported.learned(conversation, variables))
    if variables:
        raise UserError(f"this model's chat template has no variables, received {', '.join(variables)}")
    return _chatml(tokenizer, conversation, add_generation_prompt)


def _chatml(tokenizer: Tokenizer, conversation: Conversation, add_generation_prompt: bool) -> Rendered:
    """Our own template."""
    turn_start, turn_end = tokenizer.special_ids[TURN_START], tokenizer.special_ids[TURN_END]
    line_break = tokenizer.encode("\n")
    ids: list[int] = []
    mask: list[bool] = []

    def add(tokens: list[int], supervised: bool = False) -> None:
        ids.extend(tokens)
        mask.extend([supervised] * len(tokens))

    for role, text in _turns(conversation):
        add([turn_start, *tokenizer.encode(f"{role}\n")])
        add([*tokenizer.encode(text), turn_end], supervised=role == "assistant")
        add(line_break)
    if add_generation_prompt:
        add([turn_start, *tokenizer.encode("assistant\n")])
    return Rendered(ids, mask)


def _turns(conversation: Conversation) -> Iterator[tuple[str, str]]:
    """(role, text) of each turn: tools join the system's words, and results in a row are one turn."""
    messages = list(conversation.messages)
    if conversation.tools:
        words = messages.pop(0).content.strip() if messages and messages[0].role == "system" else ""
        offer = TOOLS_BEFORE + "\n".join(map(_json, conversation.tools)) + TOOLS_AFTER
        yield "system", f"{words}\n\n{offer}" if words else offer
    for results, group in groupby(messages, lambda message: message.role == "tool"):
        if results:
            yield "user", "\n".join(f"<tool_response>\n{m.content.strip()}\n</tool_response>" for m in group)
        else:
            yield from ((message.role, _said(message)) for message in group)


def _said(message: Message) -> str:
    """What the message says, and then what it calls."""
    words = message.content.strip()
    return "\n".join([*([words] if words else ()), *map(written, message.tool_calls)])


def written(call: ToolCall) -> str:
    """A call as the model writes it."""
    return f'{CALL_START}\n{{"name": {_json(call.name)}, "arguments": {call.arguments}}}\n{CALL_END}'


def _json(value: Json) -> str:
    """As the `tojson` of transformers writes it."""
    return json.dumps(value, ensure_ascii=False)
