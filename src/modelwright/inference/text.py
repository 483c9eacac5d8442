"""From tokens to characters: a token is bytes, and a character may span several tokens."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from typing import Protocol

from modelwright.base.seams import Tokenizer


class ByteTokenizer(Tokenizer, Protocol):
    """A tokenizer that also says which bytes each token stands for."""

    def token_bytes(self, token_id: int, /) -> bytes: ...

    def begin(self, text: str, /) -> list[int]:
        """Ids of a text that the model shall continue."""
        ...

    @property
    def stop_ids(self) -> Sequence[int]:
        """What ends an answer."""
        ...

    @property
    def vocab_size(self) -> int:
        """Ids from here on have no text (a model may have more rows than its tokenizer has tokens)."""
        ...


class TextStream:
    """Turns sampled tokens into text piece by piece.

    Bytes that do not complete a character wait for the next token. Text that might be the start of a
    stop string waits until it is known not to be. Special tokens have no text. The pieces joined are
    the text that decoding all tokens at once would give, cut before the first stop string.
    """

    def __init__(self, tokenizer: ByteTokenizer, stop: Sequence[str] = ()) -> None:
        self._bytes_of = tokenizer.token_bytes
        self._special = frozenset(tokenizer.special_ids.values())
        self._known = tokenizer.vocab_size
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stop = tuple(stop)
        self._held = ""
        self.stopped = False

    def push(self, token: int, *, may_stop: bool = True) -> str:
        """The text that is certain after one more token; sets `stopped` at a stop string, unless none counts
        yet."""
        if self.stopped or token in self._special or token >= self._known:
            return ""
        text = self._decoder.decode(self._bytes_of(token))
        return self._release(text) if may_stop else text

    def end(self) -> str:
        """What was held back, when no more tokens come; half a character becomes U+FFFD."""
        if self.stopped:
            return ""
        text = self._release(self._decoder.decode(b"", final=True))
        if not self.stopped:
            text, self._held = text + self._held, ""
        return text

    def _release(self, text: str) -> str:
        if not self._stop:
            return text
        text = self._held + text
        places = [place for place in (text.find(stop) for stop in self._stop) if place >= 0]
        if places:
            self.stopped, self._held = True, ""
            return text[: min(places)]
        certain = len(text) - self._longest_start_of_a_stop(text)
        self._held = text[certain:]
        return text[:certain]

    def _longest_start_of_a_stop(self, text: str) -> int:
        """Length of the longest end of `text` that a stop string begins with."""
        longest = min(len(text), max(map(len, self._stop)) - 1)
        for length in range(longest, 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stop):
                return length
        return 0


def text_of(tokenizer: ByteTokenizer, ids: Iterable[int], stop: Sequence[str] = ()) -> str:
    """The text of sampled tokens, without special tokens, cut before the first stop string."""
    stream = TextStream(tokenizer, stop)
    pieces = [stream.push(token) for token in ids]
    return "".join(pieces) + stream.end()
