"""A text in which some special tokens count: what a chat template wrote becomes ids.

Special tokens are cut out of the text and everything between them is plain text, as the `tokenizers` library
does it for its own files. Where `BARRIER` stands within what looks like a special token, it is plain text
too; the barrier itself vanishes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple, cast

from tokenizers import AddedToken, Tokenizer

BARRIER = "\ufdd2"
"""No character of Unicode's, but kept free for such use."""


class Token(NamedTuple):
    """An id, and which characters it stands for."""

    id: int
    start: int
    end: int


class Segments:
    """Text with special tokens -> ids, for one tokenizer."""

    def __init__(self, backend: Tokenizer) -> None:
        """`backend` takes what looks special as plain text (`encode_special_tokens`)."""
        self._backend = backend
        added = backend.get_added_tokens_decoder().items()
        special = {
            token.content: (number, token) for number, token in added if token.special and token.content
        }
        self._tokens: dict[str, AddedToken] = {content: token for content, (_, token) in special.items()}
        self.special = {content: number for content, (number, _) in special.items()}
        """Special token -> id."""
        longest_first = sorted(special, key=len, reverse=True)
        self.pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        """Finds a special token."""

    def special_ids(self, text: str) -> list[int]:
        """The special tokens in a text, in order."""
        return [self.special[match[0]] for match in self.pattern.finditer(text)]

    def encode(self, text: str) -> list[Token]:
        """The tokens of a text. White space beside a special token that claims it (`lstrip`, `rstrip`) is the
        token's."""
        tokens: list[Token] = []
        done = 0
        for match in self.pattern.finditer(text):
            token = self._tokens[match[0]]
            start, end = match.span()
            if token.lstrip:
                start = done + len(text[done:start].rstrip())
            if token.rstrip:
                end = cast(re.Match[str], _WHITE.match(text, end)).end()
            tokens += [*self._plain(text[done:start], done), Token(self.special[match[0]], start, end)]
            done = end
        return [*tokens, *self._plain(text[done:], done)]

    def _plain(self, piece: str, place: int) -> Iterator[Token]:
        """The tokens of a piece without special tokens, which begins at `place`."""
        kept = [at for at, letter in enumerate(piece) if letter != BARRIER] if BARRIER in piece else None
        backend = self._later if place else self._backend
        encoding = backend.encode(piece.replace(BARRIER, ""), add_special_tokens=False)
        for number, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if kept is not None and start < end:
                start, end = kept[start], kept[end - 1] + 1
            yield Token(number, place + start, place + end)

    @cached_property
    def _later(self) -> Tokenizer:
        """What encodes pieces behind the first: SentencePiece's space before a text is not repeated there,
        unless the file says so."""
        content = self._backend.to_str()
        if _FIRST not in content:
            return self._backend
        made = Tokenizer.from_str(content.replace(_FIRST, _NEVER))
        made.encode_special_tokens = True
        return made


_FIRST, _NEVER = '"prepend_scheme":"first"', '"prepend_scheme":"never"'
"""As `tokenizer.json` spells it; within a token the quotes are escaped."""
_WHITE = re.compile(r"\s*")
