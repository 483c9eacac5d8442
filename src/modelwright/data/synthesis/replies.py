"""Replies of a chat endpoint, read strictly: they are a stranger's, and may be anything."""

from __future__ import annotations

import json
import re
from typing import Any

from modelwright.base.schema import Answer

SHOWN = 200
"""Letters of a stranger's message or name that are shown."""
MOST_TOKENS = 10**9


class NoCompletion(Exception):
    """A reply that is none of a chat endpoint."""


class Hidden:
    """Cuts a secret out of texts."""

    def __init__(self, secret: str) -> None:
        self._secret = re.compile("".join(map(_spellings, secret))) if secret else None

    def cut(self, text: str) -> str:
        """The text without the secret, which may be escaped as in JSON, and in UTF-8. To be shortened only
        after that: half a secret is not found."""
        plain = text.encode("utf-8", "replace").decode("utf-8")
        return self._secret.sub("[key]", plain) if self._secret else plain

    def shown(self, text: str) -> str:
        """How the text begins without the secret, as one line of printable letters."""
        return "".join(letter if letter.isprintable() else " " for letter in self.cut(text)[:SHOWN]).strip()


def _spellings(letter: str) -> str:
    """A pattern of a letter as it is, or as JSON may have it: escaped by its number or by a backslash."""
    return rf"(?:\\u(?i:{ord(letter):04x})|\\?{re.escape(letter)})"


def answer_of(body: bytes, hidden: Hidden, seconds: float) -> Answer:
    """The answer in a reply of status 200; one with a fault where it holds no text. `NoCompletion` where the
    reply is something else."""
    reply = _json(body)
    choices = reply.get("choices") if isinstance(reply, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict) or not isinstance(choice, dict) or not isinstance(reply, dict):
        raise NoCompletion(f"the reply is no chat completion: {_shown(body, hidden)}")
    text, says, fault = message.get("content"), message.get("refusal"), ""
    if not isinstance(text, str):  # what was written in vain is paid too, so the counts stay
        found = f"a refusal: {says}" if isinstance(says, str) else f"content {type(text).__name__}"
        text, fault = "", f"the reply holds no text: {hidden.shown(found)}"
    thought = next(
        (message[k] for k in ("reasoning_content", "reasoning") if isinstance(message.get(k), str)), ""
    )
    usage = reply.get("usage")
    used = usage if isinstance(usage, dict) else {}
    return Answer(
        text=hidden.cut(text),
        reasoning=hidden.cut(thought),
        finish_reason=_name(choice.get("finish_reason"), hidden),
        prompt_tokens=_count(used.get("prompt_tokens")),
        tokens=_count(used.get("completion_tokens")),
        model=_name(reply.get("model"), hidden),
        seconds=seconds,
        fault=fault,
    )


def problem_of(body: bytes, hidden: Hidden) -> str:
    """What a reply says of why it is no answer: OpenAI's `error.message`, else how it begins."""
    reply = _json(body)
    error: Any = reply.get("error", reply) if isinstance(reply, dict) else None
    says = error.get("message") if isinstance(error, dict) else error
    return hidden.shown(says) if isinstance(says, str) and says else _shown(body, hidden)


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _shown(body: bytes, hidden: Hidden) -> str:
    return hidden.shown(body.decode("utf-8", "replace")) or "nothing"


def _name(value: Any, hidden: Hidden) -> str:
    return hidden.shown(value) if isinstance(value, str) else ""


def _count(value: Any) -> int | None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST_TOKENS
    return value if is_count else None
