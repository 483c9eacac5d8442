"""What a teacher is given to answer: prompts out of conversations, each once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from modelwright.base.files import canonical_json, sha256_text
from modelwright.base.schema import Conversation, Problem
from modelwright.data.conversations.write import as_row


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Something to answer."""

    id: str
    """A hash of the prompt."""
    prompt: Conversation
    """The row up to its last question; `meta` is that of the row."""
    reference: str
    """What the row answers; "" where it does not."""
    problem: Problem | None = None
    """What a verifier needs; None where there is no verifier, or the row has no target."""


def tasks_of(conversations: Iterable[Conversation]) -> list[Task]:
    """The tasks of conversations, in their order; of equal prompts the first."""
    found: dict[str, Task] = {}
    for conversation in conversations:
        prompt, reference = last_question(conversation)
        if prompt.messages:
            found.setdefault(
                prompt_id(prompt), Task(id=prompt_id(prompt), prompt=prompt, reference=reference)
            )
    return list(found.values())


def last_question(conversation: Conversation) -> tuple[Conversation, str]:
    """A conversation without its last answer, and that answer; "" where it ends with a question."""
    messages = list(conversation.messages)
    reference = ""
    while messages and messages[-1].role == "assistant":
        reference = messages.pop().content
    return replace(conversation, messages=tuple(messages)), reference


def prompt_id(prompt: Conversation) -> str:
    """Hex sha256 of all that the prompt says."""
    return sha256_text(canonical_json(as_row(replace(prompt, meta={}), {})))
