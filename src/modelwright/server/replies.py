"""What clients get: OpenAI's response bodies, whole and in pieces."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from modelwright.base.schema import Completion
from modelwright.inference.text import ByteTokenizer

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


def usage(prompt_tokens: int, completions: Iterable[Completion]) -> Json:
    """The count of tokens; a prompt counts once, however many answers it gets."""
    drawn = sum(len(completion.ids) for completion in completions)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": drawn,
        "total_tokens": prompt_tokens + drawn,
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
    offsets: list[int] = []
    for token in ids:
        offsets.append(offset)
        known = token < tokenizer.vocab_size
        offset += len(tokenizer.token_bytes(token).decode("utf-8", errors="ignore")) if known else 0
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
