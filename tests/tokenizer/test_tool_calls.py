"""Calls are found in an answer's text, however it is cut; what is no call stays words."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tokenizer.families import FAMILIES

from modelwright.base.errors import UserError
from modelwright.base.schema import ToolCall
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.chat import written
from modelwright.tokenizer.tool_calls import (
    BARE,
    LISTED,
    MARKED,
    CallArguments,
    CallBegun,
    CallForm,
    Piece,
    ToolStream,
    Words,
    form_of,
    split,
    structure_for,
)


def joined(pieces: list[Piece]) -> list[Piece]:
    """Equal neighbours as one."""
    found: list[Piece] = []
    for piece in pieces:
        match found[-1:], piece:
            case [Words(text)], Words(more):
                found[-1] = Words(text + more)
            case [CallArguments(index, text)], CallArguments(same, more) if index == same:
                found[-1] = CallArguments(index, text + more)
            case _:
                found.append(piece)
    return found


def call(name: str, arguments: str) -> ToolCall:
    return ToolCall(name=name, arguments=arguments)


PARIS = call("weather", '{"city": "Paris", "days": [1, {"a": "}"}]}')
NASTY = call("say", '{"text": "a \\"quoted\\" </tool_call> {[ \\\\"}')


@pytest.mark.parametrize(
    ("text", "words", "calls"),
    [
        ("Just words.\n ", "Just words.\n ", []),
        (written(PARIS), "", [PARIS]),
        (f"Let me see.\n\n{written(PARIS)}\n{written(NASTY)}\n", "Let me see.", [PARIS, NASTY]),
        (f"{written(PARIS)}\nDone.", "\nDone.", [PARIS]),
        ('<tool_call>{"name":"f","arguments":{}}</tool_call>', "", [call("f", "{}")]),
        ('<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>!', "!", [call("f", '{"a": 1}')]),
        ('<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>', "", [call("f", '{"a": 1}')]),
        ('<tool_call>\n{"name": "clock"}\n</tool_call>', "", [call("clock", "{}")]),
        # cut by the limit of tokens
        ('<tool_call>\n{"name": "f", "arguments": {"a": [1, 2', "", [call("f", '{"a": [1, 2')]),
        ('<tool_call>\n{"name": "f", "arguments": {}}\n</tool', "", [call("f", "{}")]),
        # no call
        ("a < b <tool", "a < b <tool", []),
        ("x <tool_call> never mind", "x <tool_call> never mind", []),
        ("<tool_call>", "<tool_call>", []),
        ('<tool_call>\n{"name": "f", "argum', '<tool_call>\n{"name": "f", "argum', []),
        ("<tool_call>{broken}</tool_call> and", "<tool_call>{broken}</tool_call> and", []),
        (
            '<tool_call>{"name": 3, "arguments": {}}</tool_call>',
            '<tool_call>{"name": 3, "arguments": {}}</tool_call>',
            [],
        ),
        # a call after one that is none, and one whose end is missing
        (f"<tool_call>{{no}}</tool_call>{written(PARIS)}", "<tool_call>{no}</tool_call>", [PARIS]),
        (f"<tool_call>?\n{written(PARIS)}", "<tool_call>?", [PARIS]),
        ('<tool_call>{"name": "f", "arguments": {}}\nWell.', "Well.", [call("f", "{}")]),
        (f'<tool_call>{{"name": "f", "arguments": {{}}}}{written(PARIS)}', "", [call("f", "{}"), PARIS]),
    ],
)
def test_words_and_calls(text: str, words: str, calls: list[ToolCall]) -> None:
    assert split(text) == (words, tuple(calls))
    stream = ToolStream()
    pieces = [piece for letter in text for piece in stream.push(letter)] + stream.end()
    whole = ToolStream()
    assert joined(pieces) == joined(whole.push(text) + whole.end())


PARTS = st.sampled_from(
    [
        "<tool_call>",
        "</tool_call>",
        "<tool",
        "_call>",
        "{",
        "}",
        '"name": "f"',
        ", ",
        '"arguments": ',
        " \n",
        "a",
        '"',
        "\\",
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(PARTS, max_size=14), st.lists(st.integers(0, 60), max_size=6))
def test_cuts_make_no_difference(parts: list[str], cuts: list[int]) -> None:
    text = "".join(parts)
    whole, stream = ToolStream(), ToolStream()
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [piece for start, end in pairwise(places) for piece in stream.push(text[start:end])]
    assert joined(pieces + stream.end()) == joined(whole.push(text) + whole.end())


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.from_regex(r"[a-z_]{1,9}", fullmatch=True),
            st.dictionaries(
                st.text(max_size=4), st.one_of(st.text(max_size=9), st.lists(st.text(max_size=3))), max_size=3
            ),
        ),
        max_size=3,
    )
)
def test_what_is_written_is_read(given_calls: list[tuple[str, dict[str, Any]]]) -> None:
    calls = tuple(call(name, json.dumps(arguments, ensure_ascii=False)) for name, arguments in given_calls)
    text = "\n".join(["Well:", *map(written, calls)])
    assert split(text) == ("Well:", calls)


def test_arguments_are_passed_on_as_they_come() -> None:
    stream = ToolStream()
    assert stream.push('Hm. <tool_call>\n{"name": "f", "arguments"') == [Words("Hm.")]
    assert stream.push(': {"a": ') == [CallBegun(0, "f"), CallArguments(0, '{"a": ')]
    assert stream.push('"x"}}') == [CallArguments(0, '"x"}')]
    assert stream.push("\n</tool_call>") == [] == stream.end()


# --- structures


def tool(name: str, strict: bool = False, **properties: Any) -> Any:
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "parameters": parameters, "strict": strict}}


def test_nothing_is_enforced_where_nothing_is_asked() -> None:
    assert structure_for([tool("f")], "auto") is None
    assert structure_for([], "auto") is None
    assert structure_for([tool("f")], "auto", parallel=False) is not None
    assert structure_for([tool("f", strict=True)], "auto") is not None


@pytest.mark.parametrize(
    ("tools", "choice", "says"),
    [
        ([tool("weather")], "wether", "Did you mean 'weather'"),
        ([], "required", "there are no tools"),
        ([{"type": "retrieval"}], "required", "a tool is"),
        ([{"function": {"name": "a b"}}], "required", "'a b'"),
        ([{"function": {"name": "f", "parameters": [1]}}], "required", "JSON schema"),
        ([{"function": {"name": "f", "parameters": {"type": "string"}}}], "required", "'object'"),
        (["f"], "auto", "a tool is"),
    ],
)
def test_wrong_tools_are_refused(tools: list[Any], choice: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        structure_for(tools, choice)


ONE = ToolCall(name="weather", arguments='{"city": "Köln", "in": {"a": "}]"}}')
TWO = ToolCall(name="time", arguments="{}")
FORMS = {
    "llama": (
        BARE,
        '{"name": "weather", "parameters": {"city": "Köln", "in": {"a": "}]"}}}',
        '; {"name": "time", "parameters": {}}',
        "",
    ),
    "mistral": (
        LISTED,
        '[{"name": "weather", "arguments": {"city": "Köln", "in": {"a": "}]"}}, "id": "abcdefghi"}',
        ', {"name": "time", "arguments": {}}',
        "]",
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_calls_that_are_the_whole_answer(name: str) -> None:
    form, first, second, end = FORMS[name]
    assert split(f"{first}{end}", form) == ("", (ONE,))
    assert split(f" {first}{second}{end} ", form) == ("", (ONE, TWO))
    other_order = json.dumps({form.key: {}, "name": "time"})
    assert split(f"{form.start}{other_order}{end}", form) == ("", (TWO,))
    for words in ("It rains.", f"Look: {first}{end}", "", '{"answer": 12}', "[1, 2]", "[", "{"):
        assert split(words, form) == (words, ())


@pytest.mark.parametrize("name", FORMS)
def test_where_the_text_is_cut_makes_no_difference_to_any_form(name: str) -> None:
    form, first, second, end = FORMS[name]
    for text in (f"{first}{second}{end}", f"\n{first}{end}\n", "[{ no call", "words"):
        whole = split(text, form)
        for step in (1, 2, 3, 7):
            stream = ToolStream(form)
            pieces = [p for at in range(0, len(text), step) for p in stream.push(text[at : at + step])]
            pieces += stream.end()
            names = [piece.name for piece in pieces if isinstance(piece, CallBegun)]
            arguments = [""] * len(names)
            for piece in pieces:
                if isinstance(piece, CallArguments):
                    arguments[piece.index] += piece.text
            calls = tuple(ToolCall(name=n, arguments=a) for n, a in zip(names, arguments, strict=True))
            assert ("".join(p.text for p in pieces if isinstance(p, Words)), calls) == whole


@pytest.mark.parametrize("name", FORMS)
def test_a_forced_call_in_the_models_own_form(name: str) -> None:
    llguidance = pytest.importorskip("llguidance")
    form, first, second, end = FORMS[name]
    schema = {"type": "object", "properties": {}, "additionalProperties": True}
    tools = [{"type": "function", "function": {"name": n, "parameters": schema}} for n in ("weather", "time")]
    structure = structure_for(tools, "required", True, form)
    assert structure is not None
    grammar = llguidance.LLMatcher.grammar_from_lark(structure.text)
    tokenizer = llguidance.LLTokenizer("byte")
    for text, fits in ((first.replace(', "id": "abcdefghi"', "") + second + end, True), ("words", False)):
        matcher = llguidance.LLMatcher(tokenizer, grammar)
        taken = matcher.try_consume_tokens(list(text.encode()))
        assert (taken == len(text.encode()) and matcher.is_accepting()) == fits
    assert structure_for(tools, "auto", True, form) is None
    with pytest.raises(UserError, match="no mark at which they begin"):
        structure_for(tools, "auto", False, form)


@pytest.mark.parametrize(
    ("family", "form"), [("llama-3", BARE), ("mistral", LISTED), ("qwen-2", MARKED), ("gemma", None)]
)
def test_the_form_is_the_templates(family: str, form: CallForm | None, tmp_path: Path) -> None:
    tokenizer = BPETokenizer.load(FAMILIES[family].write(tmp_path))
    if form is not None:
        assert form_of(tokenizer) == form
        return
    with pytest.raises(UserError, match="no calls of tools"):
        form_of(tokenizer)
