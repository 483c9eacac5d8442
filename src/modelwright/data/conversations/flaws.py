"""What may be wrong with a conversation that can be read: looked for in its words and the order of its turns.

Each flaw has a kind to count it by, and each kind says what to do (`KINDS`). The looks are cheap and err on
the quiet side; those that are guesses by nature (an answer cut short, another language) are no gates.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import NamedTuple

from modelwright.base.schema import Conversation, Json, Message
from modelwright.data.privacy.find import find


class Flaw(NamedTuple):
    """One thing that is wrong."""

    kind: str
    says: str


class Kind(NamedTuple):
    """What becomes of a kind of flaw."""

    is_gate: bool
    """Whether a data set with it should not be trained on as it is."""
    advice: str


KINDS: dict[str, Kind] = {
    "roles out of order": Kind(True, "templates refuse it: system first, then user and assistant in turns"),
    "empty answer": Kind(True, "answers without a letter or digit teach nothing: fill them or take them out"),
    "special token in text": Kind(True, "another program may read it as the end of a turn: take it out"),
    "garbled text": Kind(True, "read in a wrong encoding before it came here: mend it where it was made"),
    "in an evaluation set": Kind(True, "its scores would mean nothing: take the row out"),
    "template refuses it": Kind(True, "the model's chat template cannot say this: see its message"),
    "ends without the assistant": Kind(False, "the last turns teach nothing: cut them, or add the answer"),
    "calls and results apart": Kind(False, "a call needs its result behind it, and a tool that is offered"),
    "cut short": Kind(False, "the answer seems to stop in the middle: the model would learn to"),
    "another template in text": Kind(False, "the chat template marks the turns: take the old marks out"),
    "control characters": Kind(False, "they are learned as they are: take them out"),
    "other language": Kind(False, "the answer's language is not the question's: is it meant?"),
    "personal data": Kind(False, "a model may repeat it: mask it, if you have no right to it"),
    "over the context": Kind(False, "raise the context, or shorten the row; finetune leaves it out"),
    "duplicate": Kind(False, "the same row again counts twice: modelwright dataset dedup"),
    "same prompt, other answer": Kind(False, "both are learned: is it meant?"),
    "nearly a duplicate": Kind(False, "much alike an earlier row: modelwright dataset dedup --near"),
}  # fmt: skip
"""Kind -> whether it is a gate, and what to do. Rows that cannot be read are gates of their own kinds."""

_SPECIAL = re.compile(
    r"<\|[\w ▁｜-]{1,40}\|>|</?s>|<(?:bos|eos|pad|unk)>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>"
)
_TEMPLATE = re.compile(r"^### ?(?:Instruction|Input|Response):|(?:\A|\n\n)(?:Human|Assistant):", re.MULTILINE)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_FOREIGN = re.compile(r"[^\x00-\x7f]{2,}")
_CUT = re.compile(r"[,;:(\[{-]\s*\Z|\b(?:the|a|an|and|or|of|to|in|with|for|is|are|that|which)\s*\Z")
_ENDS = (".", "!", "?", "…", "。", "！", "？", '"', "'", ")", "]", "}", "`", "*", "”", "’", "»", "|", ">")
_NOTHING = frozenset({"nan", "none", "null", "n/a", "na", "todo", "tbd", "..."})
_LONG_WORDS = 40
"""An answer of so many words, with sentences that end in it, is expected to end with one."""


def flaws(conversation: Conversation, special: Collection[str] = ()) -> Iterator[Flaw]:
    """What is wrong with a conversation by itself. `special` are the tokenizer's special tokens."""
    messages = conversation.messages
    yield from _order(messages)
    yield from _calls(conversation)
    if messages[-1].role != "assistant":
        yield Flaw("ends without the assistant", f"the last turn is the {messages[-1].role}'s")
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if message.role == "assistant" and not message.tool_calls:
            yield from _answer(message.content, where)
        yield from _words(message.content, where, special)


def _order(messages: tuple[Message, ...]) -> Iterator[Flaw]:
    """The first turn that is out of order."""
    follows = {
        "user": ("", "system", "assistant"),
        "assistant": ("user", "tool"),
        "tool": ("assistant", "tool"),
    }
    before = ""
    for index, message in enumerate(messages):
        if before not in follows.get(message.role, ("",)):
            after = f"after the {before}" if before else "at the beginning"
            yield Flaw("roles out of order", f"messages[{index}] is the {message.role}'s, {after}")
            return
        before = message.role


def _calls(conversation: Conversation) -> Iterator[Flaw]:
    """Calls without results, results without calls, and calls of what is not offered."""
    offered = {_name_of(tool) for tool in conversation.tools}
    waiting = 0
    for index, message in enumerate(conversation.messages):
        where = f"messages[{index}]"
        if message.role == "tool":
            waiting -= 1
            if waiting < 0:
                yield Flaw("calls and results apart", f"{where} is a result that nothing called for")
                return
            continue
        if waiting:
            yield Flaw("calls and results apart", f"{where} comes before the result of a call")
            return
        waiting = len(message.tool_calls)
        for call in message.tool_calls:
            if call.name not in offered:
                yield Flaw(
                    "calls and results apart", f"{where} calls '{call.name}', which tools do not offer"
                )


def _name_of(tool: Json) -> str:
    """Of a tool in OpenAI's form, or its inner half alone; nothing where it is neither."""
    function = tool.get("function", tool) if isinstance(tool, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else ""


def _answer(text: str, where: str) -> Iterator[Flaw]:
    said = text.strip()
    if not any(map(str.isalnum, said)) or said.lower() in _NOTHING:
        yield Flaw("empty answer", f"{where} is {said[:40]!r}")
    elif said.count("```") % 2:
        yield Flaw("cut short", f"{where} opens a block of code that it does not close")
    elif _CUT.search(said[-40:]) and len(said.split()) > 3:
        yield Flaw("cut short", f"{where} ends with {said[-30:]!r}")
    elif (
        len(said.split()) >= _LONG_WORDS and not said.endswith(_ENDS) and ". " in said and said[-1].isalpha()
    ):
        yield Flaw("cut short", f"{where} ends with {said[-30:]!r}, without an end of the sentence")


def _words(text: str, where: str, special: Collection[str]) -> Iterator[Flaw]:
    token = next((token for token in special if token in text), None) or _first(_SPECIAL, text)
    if token:
        yield Flaw("special token in text", f"{where} holds {token!r}")
    if mark := _first(_TEMPLATE, text):
        yield Flaw("another template in text", f"{where} holds {mark.strip()!r}")
    if letter := _first(_CONTROL, text):
        yield Flaw("control characters", f"{where} holds {letter!r}")
    if garbled := _garbled(text):
        yield Flaw("garbled text", f"{where} holds {garbled}")
    if found := find(text):
        kinds = sorted({each.kind for each in found})
        yield Flaw("personal data", f"{where} holds {', '.join(kinds)} ({len(found):,} in all)")


def _first(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    return match[0] if match else ""


def _garbled(text: str) -> str:
    """UTF-8 that was read as Windows-1252 and written as UTF-8 again, or what could not be read at all."""
    if "\ufffd" in text:
        return "U+FFFD, in place of what could not be read"
    for match in _FOREIGN.finditer(text):
        try:
            return f"{match[0][:20]!r}, which was {match[0].encode('cp1252').decode('utf-8')[:20]!r}"
        except UnicodeError:
            continue
    return ""
