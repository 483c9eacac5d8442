"""Calls of tools in an answer's text: the chat template's other half.

`ToolStream` finds the calls while the text still comes: words are passed on as they are, a call as its name
and then its arguments, piece by piece. `structure_for` says which structure makes a model call what the
client wants called. The form of a call is the template's (`form_of`): between marks, as Hermes, Qwen and
`tokenizer.chat.written` do it; or, as Llama 3.1 and Mistral do, the whole answer is an object or a list of
them (their special tokens in front have no text).

Whatever a model writes instead of a call (no JSON, no name, no end) is words, as it stands. Once name and
arguments have begun they are passed on, and where they break off, so do the arguments that the client gets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from modelwright.base.errors import UserError, did_you_mean
from modelwright.base.schema import JSON_SPACE, Json, Structure, ToolCall
from modelwright.base.seams import Tokenizer
from modelwright.tokenizer.chat import CALL_END, CALL_START, Templated

_HEAD = r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)+")\s*,\s*"%s"\s*:\s*(?=\{)'
"""What precedes the arguments, in the template's order."""


@dataclass(frozen=True, slots=True)
class CallForm:
    """How a model writes calls."""

    start: str
    end: str
    between: str = ""
    """What stands between two calls; "" where each has its own start and end, and words may come before."""
    key: str = "arguments"
    """What the arguments are called."""


MARKED = CallForm(CALL_START, CALL_END)
LISTED = CallForm("[", "]", between=",")
"""Mistral's."""
BARE = CallForm("", "", between=";", key="parameters")
"""Llama 3.1's."""


def form_of(tokenizer: Tokenizer) -> CallForm:
    """The form of calls in a model's chat template. A `UserError` where it has none that we know."""
    imported = tokenizer.imported if isinstance(tokenizer, Templated) else None
    if imported is None:
        return MARKED
    source = imported.source_with_tools
    signs = {CALL_START: MARKED, "[TOOL_CALLS]": LISTED, '"parameters"': BARE}
    found = next((form for sign, form in signs.items() if sign in source), None)
    if "tools" not in source or found is None:
        raise UserError(
            "the model's chat template has no calls of tools in a form that is known here (Hermes and Qwen, "
            "Llama 3.1, Mistral): leave the tools out, or serve a model that was taught to call them"
        )
    return found


@dataclass(frozen=True, slots=True)
class Words:
    """Text for the reader."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegun:
    """A call, counted from 0."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of a call's arguments."""

    index: int
    text: str


Piece = Words | CallBegun | CallArguments


class ToolStream:
    """Turns an answer's text, as it comes, into words and calls. Where the text is cut makes no difference to
    the pieces, once equal neighbours are joined.

    It is always in one of four places (`_in_...`), each of which takes what is certain from the text held
    back, or None while that depends on what comes next.
    """

    def __init__(self, form: CallForm = MARKED) -> None:
        self._held = ""
        self._form, self._head = form, re.compile(_HEAD % form.key)
        self._place: Callable[[bool], list[Piece] | None] = self._at_start if form.between else self._in_words
        self._opening = ""
        """`<tool_call>` and the white space before it, in case that it turns out to be words."""
        self._calls = 0
        self._depth = _Depth()

    def push(self, text: str) -> list[Piece]:
        """What is certain after some more text."""
        self._held += text
        return self._run(last=False)

    def end(self) -> list[Piece]:
        """What is left when no more text comes."""
        return self._run(last=True)

    def _run(self, last: bool) -> list[Piece]:
        pieces: list[Piece] = []
        while (more := self._place(last)) is not None:
            pieces += more
        return pieces

    def _at_start(self, last: bool) -> list[Piece] | None:
        """Of an answer that is calls or words, as a whole."""
        begun = re.match(rf"\s*{re.escape(self._form.start)}\s*", self._held)
        rest = self._held[begun.end() :] if begun else self._held.lstrip()
        if not rest and not last:
            return None
        if begun and rest.startswith("{"):
            self._opening = self._take(begun.end())
            self._place = self._in_head
            return []
        self._place = self._only_words
        return []

    def _only_words(self, last: bool) -> list[Piece] | None:
        words = self._take(len(self._held))
        return [Words(words)] if words else None

    def _after_call(self, last: bool) -> list[Piece] | None:
        """The rest of a call's object, such as an id, and then the next call or the end."""
        if not self._depth.closed:
            self._take(self._depth.read(self._held))
            if not self._depth.closed:
                return None
        if more := re.match(rf"\s*{self._form.between}\s*(?=\{{)", self._held):
            self._opening = self._take(more.end())
            self._place = self._in_head
            return []
        end = re.match(rf"\s*{re.escape(self._form.end)}", self._held)
        if not last and re.fullmatch(rf"\s*{self._form.between}?\s*", self._held):
            return None
        self._take(end.end() if end else 0)
        self._place = self._after_calls
        return []

    def _after_calls(self, last: bool) -> list[Piece] | None:
        """White space behind the last call is nobody's."""
        self._held = self._held.lstrip()
        if not self._held:
            return None
        self._place = self._only_words
        return []

    def _in_words(self, last: bool) -> list[Piece] | None:
        """Words up to a call. The white space before it is the template's."""
        start = self._held.find(CALL_START)
        if start >= 0:
            words = self._held[:start].rstrip()
            self._opening = self._take(start + len(CALL_START))[len(words) :]
            self._place = self._in_head
            return [Words(words)] if words else []
        certain = len(self._held)
        if not last:
            certain = len(self._held[: certain - _begun(CALL_START, self._held)].rstrip())
        words = self._take(certain)
        if not words:
            return None
        return [] if self._calls and not words.strip() else [Words(words)]

    def _in_head(self, last: bool) -> list[Piece] | None:
        """The name, as soon as it is there; the whole call where its keys stand in another order."""
        head = self._head.match(self._held)
        if head and (name := _string(head[1])):
            self._take(head.end())
            self._place, self._depth = self._in_arguments, _Depth()
            return self._begin(name)
        if found := _whole_call(self._held, self._form):
            call, length = found
            self._take(length)
            self._depth = _Depth(0)
            self._place = self._after_call if self._form.between else self._in_words
            return [*self._begin(call.name), CallArguments(self._calls - 1, call.arguments)]
        if last or not re.match(r"\s*(\{|$)", self._held):
            self._place = self._only_words if self._form.between else self._in_words
            return [Words(self._opening)]
        return None

    def _begin(self, name: str) -> list[Piece]:
        self._calls += 1
        return [CallBegun(self._calls - 1, name)]

    def _in_arguments(self, last: bool) -> list[Piece] | None:
        """The arguments, up to the brace that closes them."""
        text = self._take(self._depth.read(self._held))
        if self._depth.closed:
            self._place = self._after_call if self._form.between else self._in_tail
            self._depth = _Depth(1)
        return [CallArguments(self._calls - 1, text)] if text else None

    def _in_tail(self, last: bool) -> list[Piece] | None:
        """The call's own brace and `</tool_call>`, or as much of them as there is."""
        tail = re.match(r"\s*\}?\s*", self._held)
        assert tail
        rest = self._held[tail.end() :]
        if CALL_END.startswith(rest) and rest != CALL_END:
            if not last:
                return None
            rest = ""
        self._held = rest.removeprefix(CALL_END)
        self._place = self._in_words
        return []

    def _take(self, count: int) -> str:
        text, self._held = self._held[:count], self._held[count:]
        return text


class _Depth:
    """Where a text stands in a JSON object: how deep, and whether in a string."""

    def __init__(self, depth: int | None = None) -> None:
        """Within `depth` objects; None before the first. At 0 it has ended."""
        self._depth, self._quoted, self._escaped = depth or 0, False, False
        self.closed = depth == 0

    def read(self, text: str) -> int:
        """How many of the characters belong to the object; `closed` says whether it has ended with them."""
        for place, letter in enumerate(text):
            if self._escaped:
                self._escaped = False
            elif self._quoted:
                self._escaped, self._quoted = letter == "\\", letter != '"'
            elif letter == '"':
                self._quoted = True
            elif letter in "{[":
                self._depth += 1
            elif letter in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self.closed = True
                    return place + 1
        return len(text)


def split(text: str, form: CallForm = MARKED) -> tuple[str, tuple[ToolCall, ...]]:
    """The words and the calls of a whole answer. The calls have no ids: a model does not write any."""
    stream = ToolStream(form)
    words, names, arguments = "", list[str](), list[str]()
    for piece in [*stream.push(text), *stream.end()]:
        if isinstance(piece, Words):
            words += piece.text
        elif isinstance(piece, CallBegun):
            names.append(piece.name)
            arguments.append("")
        else:
            arguments[piece.index] += piece.text
    return words, tuple(ToolCall(name=n, arguments=a) for n, a in zip(names, arguments, strict=True))


def _begun(word: str, text: str) -> int:
    """How many characters at the end of `text` may be the beginning of `word`."""
    return next((n for n in range(len(word) - 1, 0, -1) if text.endswith(word[:n])), 0)


def _string(quoted: str) -> str | None:
    try:
        return cast(str, json.loads(quoted))
    except ValueError:
        return None


def _whole_call(text: str, form: CallForm) -> tuple[ToolCall, int] | None:
    """The call that a text begins with, up to `</tool_call>` or its last brace, and its length. Its keys may
    come in any order, and the arguments as a string; where there are none, none are meant."""
    end_mark = "" if form.between else form.end
    if not text.lstrip().startswith("{") or end_mark not in text:
        return None
    white = len(text) - len(text.lstrip())
    try:
        found, end = json.JSONDecoder().raw_decode(text, white)
    except (ValueError, RecursionError):
        return None
    tail = re.compile(rf"\s*{end_mark}" if end_mark else "").match(text, end)
    if not tail or not isinstance(found, dict):
        return None
    call = cast(dict[str, Any], found)
    name, given = call.get("name"), call.get(form.key, {})
    if not isinstance(name, str) or not name or not isinstance(given, dict | str):
        return None
    arguments = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
    return ToolCall(name=name, arguments=arguments), tail.end()


# --- making a model call


def structure_for(
    tools: Sequence[Json], choice: str, parallel: bool = True, form: CallForm = MARKED
) -> Structure | None:
    """What an answer must be for a client's `tool_choice`: "auto", "required", or the name of a function.

    None for "auto" where nothing is to be enforced: no tool says `strict`, and calls may be several. Else a
    call, once begun, is one of a tool that there is, with arguments that fit its parameters.
    """
    functions = [_function(tool) for tool in tools]
    names = [function["name"] for function in functions]
    free = choice == "auto"
    if free and parallel and not any(function.get("strict") for function in functions):
        return None
    if not free and choice != "required":
        if choice not in names:
            raise UserError(f"no tool has the name '{choice}'.{did_you_mean(choice, names)}")
        functions, parallel = [functions[names.index(choice)]], False
    if not functions:
        raise UserError(f"tool_choice is '{choice}', and there are no tools")
    calls = " | ".join(f"call{number}" for number in range(len(functions)))
    bodies = "\n".join(_rule(number, function, form) for number, function in enumerate(functions))
    if form.between:
        if free:
            raise UserError(
                "this model's calls have no mark at which they begin, so that only tool_choice 'required' or"
                " a function's name can be enforced: leave out 'strict' and 'parallel_tool_calls', or choose"
                " so"
            )
        several = f' ("{form.between} " call)*' if parallel else ""
        start, end = json.dumps(form.start), json.dumps(form.end)
        return Structure("grammar", f"start: {start} call{several} {end}\ncall: {calls}\n{bodies}")
    if free:
        start = "start: (words_and_start rest)* TEXT" if parallel else "start: TEXT | words_and_start rest"
        start += f'\nwords_and_start[lazy]: TEXT "{CALL_START}"\nTEXT: /(?s:.)*/'
    else:
        start = f'start: "{CALL_START}" rest' + (f' ("\\n{CALL_START}" rest)*' if parallel else "")
    return Structure(kind="grammar", text=f'{start}\nrest: "\\n" ({calls}) "\\n{CALL_END}"\n{bodies}')


def _rule(number: int, function: dict[str, Any], form: CallForm) -> str:
    """The grammar of one function's calls. What is not `strict` may say of its parameters what the library
    cannot enforce: that is passed over."""
    parameters = _fields(function.get("parameters")) or {"additionalProperties": False}
    options = {"whitespace_pattern": JSON_SPACE, "lenient": not function.get("strict")}
    schema = json.dumps({"type": "object", **parameters, "x-guidance": options})
    head = json.dumps(f'{{"name": {json.dumps(function["name"])}, "{form.key}": ')
    return f'call{number}: {head} %json {schema} "}}"'


def _function(tool: Json) -> dict[str, Any]:
    """A tool's function, or what is wrong with it."""
    its = _fields(_fields(tool).get("function"))
    if not its or _fields(tool).get("type", "function") != "function":
        raise UserError('a tool is {"type": "function", "function": {"name": ..., "parameters": ...}}')
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", str(its.get("name", ""))):
        raise UserError(
            f"a function's name is 1 to 64 letters, digits, '_', '-' or '.', received {its.get('name')!r:.80}"
        )
    parameters: Json = its.get("parameters") or {}
    if not isinstance(parameters, dict) or _fields(parameters).get("type", "object") != "object":
        raise UserError(f"the parameters of '{its['name']}' are a JSON schema of the type 'object'")
    return its


def _fields(value: Json) -> dict[str, Any]:
    """A JSON object, or an empty one for anything else."""
    return cast(dict[str, Any], value) if isinstance(value, dict) else {}
