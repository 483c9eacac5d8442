"""Conversations in the chat template that came with a model: ids, and which of them are learned.

The ids are those of transformers' `apply_chat_template`, but for one thing: in what people, tools and other
programs say, nothing is a special token. Wherever a message spells one, a barrier is put into it, which the
template carries along and `Segments` takes out again. And since a message may spell a part of one, and the
template the rest, the special tokens of a rendering must be those of the same conversation without any sign
of which special tokens are made.

What is learned is what the assistant says, up to the token that ends its turn. The template's own
`{% generation %}` marks it, or else it is what follows the prompt: the ids of the turns before, open for an
answer, must be the beginning of the whole. A turn of which the template leaves a part out (Qwen3 forgets
earlier thoughts), or which does not follow its prompt token by token, is context; where that is all turns,
the template cannot be trained with and is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, Protocol, cast

from modelwright.base.schema import Conversation, Json, Message
from modelwright.tokenizer.segments import BARRIER, Segments, Token
from modelwright.tokenizer.template import SPOKEN_END, SPOKEN_START, TemplateRefuses, write

_MARKS = re.compile(f"[{BARRIER}{SPOKEN_START}{SPOKEN_END}]")
_NO_TEMPLATE = (
    "the model has no chat template, so it takes no turns. Let it continue a text (completions, "
    "'modelwright predict'), or give its folder a chat_template.jinja made of tokens that it has"
)
_NO_MASK = (
    "the chat template leaves no answer to learn: none of the assistant's {} turns stands in it whole,"
    " behind its own prompt, with a token at its end that stops generation. Give the folder a"
    " chat_template.jinja with {{% generation %}} around the answers and their ends"
)

_DEEPEST = 100
"""Lists and objects in one another, of a tool, of a call's arguments or of a variable."""
_TOO_DEEP = (
    f"a tool, a call's arguments or a variable of the template holds more than {_DEEPEST} lists and objects"
    " in one another: make them flatter"
)


class Codec(Protocol):
    """What is asked of a tokenizer besides special tokens."""

    def encode(self, text: str, /) -> list[int]: ...

    def decode(self, ids: list[int], /, *, skip_special: bool) -> str: ...


class ImportedTemplate:
    """A chat template of another's, on its tokenizer."""

    def __init__(
        self,
        templates: Mapping[str, str],
        named: Mapping[str, str],
        stops: frozenset[int],
        segments: Segments,
        codec: Codec,
    ) -> None:
        """`templates` by name ("default", "tool_use"), `named` the tokens that they may write as variables,
        `stops` the tokens that end an answer."""
        self._templates, self._named, self._stops = templates, named, stops
        self._segments, self._codec = segments, codec
        self._start_of_special = re.compile(f"(?=(?:{segments.pattern.pattern}))(.)", re.DOTALL)
        signs = {
            sign for token in segments.special for sign in token if not (sign.isalnum() or sign.isspace())
        }
        self._sign = re.compile("|".join(map(re.escape, sorted(signs))) or r"(?!)")

    def ids(
        self, conversation: Conversation, open_for_answer: bool, variables: Mapping[str, Json] | None = None
    ) -> list[int]:
        """A conversation's ids."""
        return [token.id for token in self._tokens(conversation, open_for_answer, variables or {})[0]]

    def text(self, conversation: Conversation, open_for_answer: bool) -> str:
        """What the template writes, as text."""
        return _MARKS.sub("", self._written(conversation, open_for_answer, {}, self._guarded))

    def learned(
        self, conversation: Conversation, variables: Mapping[str, Json] | None = None
    ) -> tuple[list[int], list[bool]]:
        """A conversation's ids, and which of them are learned."""
        tokens, spoken = self._tokens(conversation, False, variables or {})
        ids, mask = [token.id for token in tokens], [False] * len(tokens)
        answers = [at for at, message in enumerate(conversation.messages) if message.role == "assistant"]
        marked = _ranges(tokens, spoken) if spoken and len(spoken) == len(answers) else None
        for count, at in enumerate(answers):
            starts = [marked[count]] if marked else self._prompts(conversation, at, ids, variables or {})
            for start in starts:
                end = next((place for place in range(start, len(ids)) if ids[place] in self.stops), None)
                if end is not None and self._says(conversation.messages[at], ids[start:end]):
                    mask[start : end + 1] = [True] * (end + 1 - start)
                    break
        if answers and not any(mask):
            raise TemplateRefuses(_NO_MASK.format(len(answers)))
        return ids, mask

    def reads(self, variable: str) -> bool:
        """Whether the template speaks of a variable of that name."""
        word = re.compile(rf"\b{re.escape(variable)}\b")
        return any(word.search(source) for source in self._templates.values())

    @property
    def source_with_tools(self) -> str:
        """The template for conversations with tools."""
        return self._templates.get("tool_use") or self._templates.get("default", "")

    @cached_property
    def stops(self) -> frozenset[int]:
        """What ends an answer: by the model's files, and by the template."""
        return self._stops if self.end_of_turn is None else self._stops | {self.end_of_turn}

    @cached_property
    def end_of_turn(self) -> int | None:
        """The special token behind what the assistant says; None where the template writes none."""
        asked = Message(role="user", content="Hello"), Message(role="assistant", content="Hi")
        talk = Conversation(messages=(*asked, Message(role="user", content="Bye")))
        try:
            ids = self.ids(talk, False)
            start = next(iter(self._prompts(talk, 1, ids, {})), None)
        except TemplateRefuses:
            return None
        special = self._segments.special.values()
        return None if start is None else next((i for i in ids[start:] if i in special), None)

    def _prompts(
        self, conversation: Conversation, at: int, ids: list[int], variables: Mapping[str, Json]
    ) -> Iterator[int]:
        """Where the answer `at` may begin: how long each prompt is that `ids` begin with. Some templates
        have another for an answer without thoughts."""
        before = Conversation(messages=conversation.messages[:at], tools=conversation.tools)
        kinds: list[Mapping[str, Json]] = [variables]
        if "enable_thinking" not in variables and "enable_thinking" in self._source(conversation):
            kinds.append({**variables, "enable_thinking": False})
        for kind in kinds:
            try:
                prompt = self.ids(before, True, kind)
            except TemplateRefuses:  # no turns before, or none that a prompt may follow
                continue
            if prompt and ids[: len(prompt)] == prompt:
                yield len(prompt)

    def _says(self, message: Message, ids: list[int]) -> bool:
        """Whether the ids are the message, but for white space; of calls, that all are there by name."""
        said = _squeezed(self._codec.decode(ids, skip_special=True))
        words = _squeezed(self._codec.decode(self._codec.encode(message.content), skip_special=True))
        if not message.tool_calls:
            return said == words
        return said.startswith(words) and all(_squeezed(call.name) in said for call in message.tool_calls)

    def _tokens(
        self, conversation: Conversation, open_for_answer: bool, variables: Mapping[str, Json]
    ) -> tuple[list[Token], list[tuple[int, int]]]:
        """The tokens, and which characters the template marks as spoken by the assistant."""
        text, spoken = _unmarked(self._written(conversation, open_for_answer, variables, self._guarded))
        if self._is_suspicious(conversation, variables):
            plain = self._written(conversation, open_for_answer, variables, self._harmless)
            if self._segments.special_ids(plain) != self._segments.special_ids(text):
                raise TemplateRefuses(
                    "a message and the chat template together spell a special token, or the template decides"
                    " by signs in a message: take signs such as < > [ ] | out of the messages"
                )
        return self._segments.encode(text), spoken

    def _written(
        self,
        conversation: Conversation,
        open_for_answer: bool,
        variables: Mapping[str, Json],
        change: Callable[[str], str],
    ) -> str:
        """What the template writes, with `change` applied to every text that is not the template's."""
        source = self._source(conversation)
        tools = [_mapped(tool, change) for tool in conversation.tools]
        return write(
            source,
            {
                **{name: _mapped(value, change) for name, value in variables.items()},
                **self._named,
                "messages": [_as_json(message, conversation, change) for message in conversation.messages],
                "tools": tools or None,
                "documents": None,
                "add_generation_prompt": open_for_answer,
            },
        )

    def _source(self, conversation: Conversation) -> str:
        """The template for a conversation; refused where it would leave tools out in silence."""
        source = self.source_with_tools if conversation.tools else self._templates.get("default", "")
        if not source:
            raise TemplateRefuses(_NO_TEMPLATE)
        if conversation.tools and "tools" not in source:
            raise TemplateRefuses("the model's chat template has no place for tools: leave them out")
        if any(message.tool_calls for message in conversation.messages) and "tool_calls" not in source:
            raise TemplateRefuses("the model's chat template has no place for calls of tools: leave them out")
        return source

    def _guarded(self, text: str) -> str:
        """A message's text, with a barrier in whatever looks like a special token."""
        text = _MARKS.sub("", text)
        looks_special = self._segments.pattern.search(text)
        return self._start_of_special.sub(rf"\1{BARRIER}", text) if looks_special else text

    def _harmless(self, text: str) -> str:
        """A text of the same form that has no part in any special token."""
        text = _MARKS.sub("", text)
        is_part = text.strip() and any(text.strip() in token for token in self._segments.special)
        return re.sub(r"\S", "x", text) if is_part else self._sign.sub("x", text)

    def _is_suspicious(self, conversation: Conversation, variables: Mapping[str, Json]) -> bool:
        """Whether any text could have a part in a special token."""
        texts = list[str]()

        def seen(text: str) -> str:
            texts.append(text)
            return text

        for message in conversation.messages:
            _as_json(message, conversation, seen)
        _mapped([*conversation.tools, *variables.values()], seen)
        return any(self._harmless(text) != text for text in texts)


def _ranges(tokens: list[Token], spoken: list[tuple[int, int]]) -> list[int] | None:
    """The first token of each marked text; None where a mark cuts a token in two."""
    starts = {token.start: place for place, token in reversed(list(enumerate(tokens)))}
    cut = any(token.start < start < token.end for token in tokens for start, _ in spoken)
    return None if cut else [starts.get(start, len(tokens)) for start, _ in spoken]


def _unmarked(text: str) -> tuple[str, list[tuple[int, int]]]:
    """The text without the marks around what is spoken, and where they stood."""
    pieces, spoken = list[str](), list[tuple[int, int]]()
    length = start = 0
    for piece in re.split(f"([{SPOKEN_START}{SPOKEN_END}])", text):
        if piece == SPOKEN_START:
            start = length
        elif piece == SPOKEN_END:
            spoken.append((start, length))
        else:
            pieces.append(piece)
            length += len(piece)
    return "".join(pieces), spoken


def _as_json(message: Message, conversation: Conversation, change: Callable[[str], str]) -> Json:
    """A message as templates know it: OpenAI's form, with the arguments of calls as objects."""
    made: dict[str, Json] = {"role": message.role, "content": change(message.content)}
    if message.tool_calls:
        made["tool_calls"] = [
            {
                "type": "function",
                **({"id": change(call.id)} if call.id else {}),
                "function": {
                    "name": change(call.name),
                    "arguments": _mapped(_arguments(call.arguments), change),
                },
            }
            for call in message.tool_calls
        ]
    if message.role == "tool" and message.tool_call_id:
        calls = (call for turn in conversation.messages for call in turn.tool_calls)
        name = next((call.name for call in calls if call.id == message.tool_call_id), "")
        made |= {"tool_call_id": change(message.tool_call_id), **({"name": change(name)} if name else {})}
    return made


def _arguments(text: str) -> Json:
    """A call's arguments as the object that they are; as text where a model wrote no JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return text
    except RecursionError as error:
        raise TemplateRefuses(_TOO_DEEP) from error


def _mapped(value: Json, change: Callable[[str], str], depth: int = 0) -> Any:
    """A JSON value with all its texts changed, keys too."""
    if depth > _DEEPEST:
        raise TemplateRefuses(_TOO_DEEP)
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        fields = cast(dict[str, Json], value)
        return {change(key): _mapped(kept, change, depth + 1) for key, kept in fields.items()}
    return (
        [_mapped(one, change, depth + 1) for one in cast(list[Json], value)]
        if isinstance(value, list | tuple)
        else value
    )


def _squeezed(text: str) -> str:
    return "".join(text.split())
