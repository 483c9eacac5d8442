"""Two answers to a prompt, of which one is better."""

from __future__ import annotations

from collections.abc import Iterator

from modelwright.base.schema import Json, Message, Preference
from modelwright.data.conversations.instructions import as_turn
from modelwright.data.conversations.messages import Fields, WrongRow, field_of, messages_of, text_of
from modelwright.data.conversations.threads import transcript, tree_pairs


def preference(fields: Fields) -> Iterator[Preference]:
    """TRL's rows: `prompt`, `chosen`, `rejected`, each a string or messages; or only `chosen` and `rejected`
    as whole conversations that begin alike."""
    if fields.get("prompt") is None:
        yield _whole(fields, *(messages_of(field_of(fields, n), n) for n in ("chosen", "rejected")))
        return
    prompt = as_turn(fields["prompt"], "prompt", "user")
    answers = [_answer(field_of(fields, name), name, prompt) for name in ("chosen", "rejected")]
    yield _pair(fields, prompt, *answers)


def transcripts(fields: Fields) -> Iterator[Preference]:
    """HH-RLHF's rows: two transcripts that differ in the last answer."""
    yield _whole(fields, *(transcript(field_of(fields, name), name) for name in ("chosen", "rejected")))


def ranked_tree(fields: Fields) -> Iterator[Preference]:
    """OpenAssistant's trees: every two answers to a prompt that were ranked."""
    for prompt, chosen, rejected in tree_pairs(field_of(fields, "prompt")):
        if chosen != rejected:
            yield _pair({"judge": "human", "method": "rank", **fields}, prompt, chosen, rejected)


def _whole(fields: Fields, chosen: tuple[Message, ...], rejected: tuple[Message, ...]) -> Preference:
    prompt = chosen[:-1]
    if not prompt:
        raise WrongRow("no prompt", "no prompt: 'chosen' holds a single message")
    return _pair(fields, prompt, *(_ending(messages, prompt, "the two") for messages in (chosen, rejected)))


def _pair(fields: Fields, prompt: tuple[Message, ...], chosen: str, rejected: str) -> Preference:
    if chosen == rejected:
        raise WrongRow("no difference", "chosen and rejected are the same text: there is nothing to prefer")
    judge, method = (str(fields.get(name) or "unknown") for name in ("judge", "method"))
    return Preference(prompt=prompt, chosen=chosen, rejected=rejected, judge=judge, method=method)


def _answer(value: Json, name: str, prompt: tuple[Message, ...]) -> str:
    """A string, one assistant message, or the prompt and then one assistant message."""
    if isinstance(value, str):
        return text_of(value, name)
    messages = messages_of(value, name)
    return _ending(messages, prompt if len(messages) > 1 else (), name)


def _ending(messages: tuple[Message, ...], prompt: tuple[Message, ...], name: str) -> str:
    if messages[:-1] != prompt or messages[-1].role != "assistant":
        raise WrongRow(
            "wrong answer", f"{name}: expected the prompt's messages and then one by the assistant"
        )
    return messages[-1].content
