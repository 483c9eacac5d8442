"""Structured output: an answer that is as a schema, a regular expression or a grammar says, by construction.

A `Matcher` follows the text of one sequence and says, before each draw, which tokens may come next: those
whose bytes keep the text a beginning of something that fits, and an end token exactly where the text is
whole. The parsing is done by llguidance (an Earley parser over a lexer of derivatives, tens of microseconds
a token), an optional dependency.

Structures come from clients, so nothing in them is trusted: their size and depth are bounded, they are
compiled on trial (`inference.trial`), each step has limits after which the library gives up, and what cannot
be enforced (a keyword that is not implemented, a schema elsewhere on the network) is refused, never left out.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from modelwright.base.errors import UserError
from modelwright.base.schema import JSON_SPACE, Json, Structure
from modelwright.inference import trial
from modelwright.inference.text import ByteTokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

MAX_CHARACTERS = 100_000
"""The longest text of a structure (OpenAI allows 120,000 in the names and values of a schema)."""
MAX_DEPTH = 50
"""How deep a schema may be nested, braces and brackets counted. The library itself stops at 128."""
KEPT = 32
"""How many compiled structures an engine keeps: most requests repeat a few."""
USES = 16
"""After so many matchers a structure is compiled anew: all copies of a compiled one share the states that its
lexer has met, of which there is a limit, and a popular schema must not run into it for good."""
NAMES = {
    "json_schema": "the JSON schema",
    "json_object": "a JSON object",
    "regex": "the regular expression",
    "grammar": "the grammar",
}


class Vocabulary:
    """A tokenizer as the library sees it, and the structures compiled for it. One per engine.

    `size` is the number of rows of the model's output; those beyond the tokenizer's ids are never allowed.
    `stop_ids` end an answer. Nothing is built before the first structure comes. May be used from several
    threads: a server compiles in one of its own, so that a big schema does not hold up who is decoding.
    """

    def __init__(self, tokenizer: ByteTokenizer, size: int, stop_ids: Sequence[int]) -> None:
        self._tokenizer, self._size = tokenizer, size
        self._ends = sorted(end for end in stop_ids if end < tokenizer.vocab_size)
        self._kept: OrderedDict[Structure, _Compiled] = OrderedDict()
        """The longest unused first."""
        self._looking, self._compiling = Lock(), Lock()

    def matcher(self, structure: Structure) -> Matcher:
        """A matcher at the beginning of a text. A `UserError` where the structure is malformed, too large or
        too complex, uses what is not implemented, or fits no text at all."""
        found = self.ready(structure)
        if found is None:
            with self._compiling:  # another thread may have compiled it in the meantime
                found = self.ready(structure) or self._begun(self._compiled(structure))
        return found

    def ready(self, structure: Structure) -> Matcher | None:
        """The same where that takes no time, since it was compiled of late; None elsewhere."""
        with self._looking:
            kept = self._kept.get(structure)
            if kept is None or kept.uses == USES:
                return None
            self._kept.move_to_end(structure)
            kept.uses += 1
        return self._begun(kept)

    def _begun(self, kept: _Compiled) -> Matcher:
        return Matcher(kept.start.deep_copy(), self._size, frozenset(self._ends))

    def _compiled(self, structure: Structure) -> _Compiled:
        """Compile a structure and keep it for others; on trial first, unless it is known."""
        worn = self._kept.get(structure)
        grammar = worn.grammar if worn else _grammar(structure)
        try:
            if worn is None:
                trial.try_out(grammar)
            made = _Compiled(grammar, trial.compiled(self._tokens, grammar), uses=1)
        except trial.Refused as error:
            raise UserError(f"{NAMES[structure.kind]} cannot be enforced: {error}") from None
        with self._looking:
            self._kept[structure] = made
            self._kept.move_to_end(structure)
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return made

    @cached_property
    def _tokens(self) -> LLTokenizer:
        """The trie of all tokens' bytes: half a second for 32,000 tokens."""
        if not self._ends:
            raise UserError("a structured answer ends with an end token, and this engine has no stop_ids")
        library = trial.library()
        return library.LLTokenizer(
            library.TokenizerWrapper(_Spelled(self._tokenizer, self._ends[0])),
            n_vocab=self._tokenizer.vocab_size,
            eos_token=self._ends,
        )


@dataclass(slots=True)
class _Compiled:
    """A structure at the beginning of its texts."""

    grammar: str
    start: LLMatcher
    uses: int


class _Spelled:
    """What the library asks of a tokenizer."""

    bos_token_id = None

    def __init__(self, tokenizer: ByteTokenizer, end: int) -> None:
        self.eos_token_id = end
        self.tokens = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
        self.special_token_ids = sorted(tokenizer.special_ids.values())
        self._encode = tokenizer.encode

    def __call__(self, text: str) -> list[int]:
        return self._encode(text)


class Matcher:
    """How far the text of one sequence has come, and what may follow."""

    def __init__(self, state: LLMatcher, size: int, ends: frozenset[int]) -> None:
        self._state, self._size, self._ends = state, size, ends

    def allowed(self) -> Tensor:
        """(V,) bool: the tokens that may come next; there is always one. On the host."""
        row = np.zeros(self._size, dtype=np.bool_)
        bias = np.frombuffer(self._state.compute_logit_bias(), dtype=np.uint8)
        np.not_equal(bias, 0, out=row[: len(bias)])
        return torch.from_numpy(row)

    def accept(self, token: int) -> None:
        """Take a drawn token, which must have been allowed."""
        if token not in self._ends and not self.error:
            self._state.consume_token(token)

    @property
    def finished(self) -> bool:
        """Whether nothing but an end token may follow."""
        return self._state.is_stopped()

    @property
    def whole(self) -> bool:
        """Whether the text so far is what was asked for: an end token may follow."""
        return self._state.is_accepting()

    @property
    def error(self) -> str:
        """Why the matcher gave up in the middle of a text, where it did: a step went beyond its limits. Only
        end tokens are allowed then, and the text is not whole. Empty as a rule."""
        return trial.brief(self._state.get_error()) if self._state.is_error() else ""


def _grammar(structure: Structure) -> str:
    """The structure in the library's own form."""
    form = trial.library().LLMatcher
    if len(structure.text) > MAX_CHARACTERS:
        raise UserError(
            f"{NAMES[structure.kind]} has {len(structure.text):,} characters, at most {MAX_CHARACTERS:,} "
            "are taken"
        )
    if structure.kind == "regex":
        return form.grammar_from_regex(structure.text)
    if structure.kind == "grammar":
        return form.grammar_from_lark(structure.text)
    schema = {"type": "object"} if structure.kind == "json_object" else _schema(structure.text)
    if not isinstance(schema, dict | bool):
        raise UserError(f"the JSON schema is {schema!r:.40}, expected an object")
    options = {"whitespace_pattern": JSON_SPACE}
    try:
        return form.grammar_from_json_schema(json.dumps(schema), defaults=options)
    except ValueError as error:  # a number that is none for the library
        raise UserError(f"the JSON schema cannot be enforced: {trial.brief(str(error))}") from None


def _schema(text: str) -> Json:
    """The JSON schema, read with care: deep nesting would end in the recursion of whoever reads it next."""
    try:
        schema: Json = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise UserError(f"the JSON schema is not JSON: {error}") from None
    level, depth = [schema], 0
    while level := [child for value in level for child in _children(value)]:
        depth += 1
        if depth > MAX_DEPTH:
            raise UserError(f"the JSON schema is nested more than {MAX_DEPTH} deep")
    return schema


def _children(value: Json) -> Sequence[Json]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else ()


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")
