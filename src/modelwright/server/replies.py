"""What clients get: OpenAI's response bodies, whole and in pieces."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from modelwright.base.schema import Completion
from modelwright.inference.engine import Delta
from modelwright.inference.text import ByteTokenizer
from modelwright.server.protocol import LogprobsMode

Json = dict[str, Any]
TopTokens = Sequence[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Envelope:
    """What every body of one answer carries."""

    id: str
    created: int
    model: str
    fingerprint: str

    def wrap(self, kind: str, choices: list[Json], **more: Any) -> Json:
        """A body around some choices."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
            **more,
        }


def completion_of(end: Delta) -> Completion:
    """The answer that a last delta tells of."""
    assert end.completion is not None
    return end.completion


def cached_tokens(ends: Sequence[Delta], copies: int = 1) -> int:
    """How many tokens of the prompts needed no computing; of `copies` of a prompt the first one counts."""
    return sum(end.timing.cached_tokens for end in ends[::copies] if end.timing is not None)


def usage(prompt_tokens: int, ends: Sequence[Delta], copies: int = 1) -> Json:
    """The count of tokens; a prompt counts once, however many answers it gets."""
    drawn = sum(len(completion_of(end).ids) for end in ends)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": drawn,
        "total_tokens": prompt_tokens + drawn,
        "prompt_tokens_details": {"cached_tokens": cached_tokens(ends, copies)},
    }


def token_text(tokenizer: ByteTokenizer, token: int) -> str:
    """A token as text; bytes that are no text by themselves are spelled out, so names stay distinct."""
    if token >= tokenizer.vocab_size:
        return f"<unused {token}>"
    piece = tokenizer.token_bytes(token)
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


def logprobs_of(
    said: Delta | Completion, mode: LogprobsMode | None
) -> tuple[Sequence[float], Sequence[TopTokens]]:
    """Log-probabilities of the tokens and their alternatives: the model's own (the default), or those after
    penalties, temperature and filters."""
    if mode == "processed_logprobs":
        return said.sampler_logprobs, said.top_sampler_logprobs
    return said.logprobs, said.top_logprobs


def chat_logprobs(
    tokenizer: ByteTokenizer, ids: Sequence[int], logprobs: Sequence[float], top: Sequence[TopTokens]
) -> Json:
    """`choices[].logprobs` of the chat endpoint."""

    def entry(token: int, logprob: float) -> Json:
        known = token < tokenizer.vocab_size
        return {
            "token": token_text(tokenizer, token),
            "logprob": logprob,
            "bytes": list(tokenizer.token_bytes(token)) if known else None,
        }

    content = [
        entry(token, logprob) | {"top_logprobs": [entry(*pair) for pair in alternatives]}
        for token, logprob, alternatives in zip(ids, logprobs, top or [()] * len(ids), strict=True)
    ]
    return {"content": content, "refusal": None}


def text_logprobs(
    tokenizer: ByteTokenizer,
    ids: Sequence[int],
    logprobs: Sequence[float | None],
    top: Sequence[TopTokens | None],
    offset: int = 0,
) -> Json:
    """`choices[].logprobs` of the completions endpoint; the first token of a text has no probability."""
    tokens = [token_text(tokenizer, token) for token in ids]
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")  # a token may be half a character
    offsets: list[int] = []
    for token in ids:
        offsets.append(offset)
        offset += len(decoder.decode(tokenizer.token_bytes(token))) if token < tokenizer.vocab_size else 0
    best = [
        None if row is None else {token_text(tokenizer, token): logprob for token, logprob in row}
        for row in top or [{}.items()] * len(ids)
    ]
    return {
        "tokens": tokens,
        "token_logprobs": list(logprobs),
        "top_logprobs": best,
        "text_offset": offsets,
    }
