"""Whether an answer is in the language of its question, where both are long enough to tell."""

from __future__ import annotations

from modelwright.base.errors import UserError
from modelwright.base.schema import Conversation
from modelwright.data.language.detect import Detect, detector

LANGUAGE_LETTERS, LANGUAGE_SCORE = 60, 0.8
"""Texts that are shorter, or less clear, are not told by language."""


def other_language(conversation: Conversation) -> tuple[str, str] | None:
    """(the question's language, the answer's) where the last turn is an answer in another language than the
    question before it; None where it is not, or where nothing can be told."""
    detect, turns = detect_or_none(), conversation.messages[-2:]
    if detect is None or [turn.role for turn in turns] != ["user", "assistant"]:
        return None
    if any(sum(map(str.isalpha, turn.content)) < LANGUAGE_LETTERS for turn in turns):
        return None
    (asked, sure), (answered, also) = (detect(turn.content) for turn in turns)
    if asked == answered or min(sure, also) < LANGUAGE_SCORE:
        return None
    return asked, answered


def detect_or_none() -> Detect | None:
    """Who tells languages, where the package for it is installed."""
    try:
        return detector()
    except UserError:
        return None
