"""Conversations that are too long, by whole turns: an answer cut in its middle teaches to stop there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from modelwright.base.schema import Conversation


def shorter(conversation: Conversation) -> Iterator[Conversation]:
    """The conversation with ever fewer of its first turns. What the system says and offers stays, and so does
    the last answer; what is left begins with what a user says. Nothing, where there is one question alone."""
    messages = conversation.messages
    system = messages[:1] if messages and messages[0].role == "system" else ()
    begin = len(system) + 1
    for start in range(begin, len(messages)):
        rest = messages[start:]
        if rest[0].role == "user" and any(message.role == "assistant" for message in rest):
            yield replace(conversation, messages=(*system, *rest))
