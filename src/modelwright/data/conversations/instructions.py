"""One question and one answer: how their fields become a conversation of two turns.

Nothing is put around the texts, such as Alpaca's "Below is an instruction": the chat template marks whose
turn it is. What an instruction is about stands behind it after a blank line. An answer with its rationale
(GSM8K's `answer`, or a field `rationale` of its own) is learned whole, as it is written, the rationale first:
it is what the assistant says.
"""

from __future__ import annotations

from collections.abc import Iterator

from modelwright.base.schema import Conversation, Json, Message, Role
from modelwright.data.conversations.messages import Fields, WrongRow, field_of, messages_of, shape, text_of

_ASKS: tuple[Role, Role] = ("user", "assistant")


def alpaca(fields: Fields) -> Iterator[Conversation]:
    """`instruction`, perhaps `input`, `output`; perhaps `history`, earlier pairs of question and answer
    (LLaMA-Factory)."""
    asked = _joined(fields, "instruction", "input")
    yield _talk(fields, asked, _text(fields, "output"), _history(fields.get("history")))


def dolly(fields: Fields) -> Iterator[Conversation]:
    """`instruction`, perhaps `context`, `response`."""
    yield _talk(fields, _joined(fields, "instruction", "context"), _text(fields, "response"))


def self_instruct(fields: Fields) -> Iterator[Conversation]:
    """`instruction` and `instances`, each an `input` and an `output`: a conversation for each (arXiv
    2212.10560)."""
    instances = field_of(fields, "instances")
    if not isinstance(instances, list) or not all(isinstance(each, dict) for each in instances):
        raise WrongRow("wrong instances", f"instances is {shape(instances)}, expected a list of objects")
    for instance in instances:
        yield from alpaca({**fields, "input": instance.get("input"), "output": instance.get("output")})


def question_answer(fields: Fields) -> Iterator[Conversation]:
    """`question`, perhaps `context`, `answer`, perhaps its `rationale`."""
    yield _talk(fields, _joined(fields, "question", "context"), _joined(fields, "rationale", "answer"))


def question_answers(fields: Fields) -> Iterator[Conversation]:
    """`question`, perhaps `context`, and `answers`, all of them right: the first is what is learned."""
    yield _talk(fields, _joined(fields, "question", "context"), accepted_answers(fields)[0])


def accepted_answers(fields: Fields) -> list[str]:
    """What counts as right in a row: each of its `answers` (a list, or SQuAD's object with a list `text`), or
    its `answer`; nothing where it has neither."""
    if fields.get("answers") is None:
        return [_text(fields, "answer")] if isinstance(fields.get("answer"), str) else []
    found = fields["answers"]
    found = found.get("text") if isinstance(found, dict) else found
    if not isinstance(found, list) or not found:
        raise WrongRow("wrong answers", f"answers is {shape(fields['answers'])}, expected a list of strings")
    return [text_of(each, "answers") for each in found]


def prompt_completion(fields: Fields) -> Iterator[Conversation]:
    """`prompt` and `completion`, each a string or messages."""
    before = as_turn(field_of(fields, "prompt"), "prompt", "user")
    answer = as_turn(field_of(fields, "completion"), "completion", "assistant")
    yield Conversation(messages=(*_system(fields), *before, *answer))


def labelled(fields: Fields) -> Iterator[Conversation]:
    """`prompt`, `completion` and `label`, whether the answer is good: as KTO learns (arXiv 2402.01306).
    Only good answers are demonstrations."""
    label = field_of(fields, "label")
    if not isinstance(label, bool) and label not in (0, 1, "true", "false", "True", "False", "0", "1"):
        raise WrongRow("wrong label", f"label is {label!r:.80}, expected true or false")
    if str(label).lower() in ("true", "1"):
        yield from prompt_completion(fields)


def as_turn(value: Json, name: str, role: str) -> tuple[Message, ...]:
    """A string as one message of a role, or messages as they are."""
    return messages_of([{"role": role, "content": value}] if isinstance(value, str) else value, name)


def _talk(fields: Fields, asked: str, answer: str, before: tuple[Message, ...] = ()) -> Conversation:
    question, reply = Message(role="user", content=asked), Message(role="assistant", content=answer)
    return Conversation(messages=(*_system(fields), *before, question, reply))


def _system(fields: Fields) -> tuple[Message, ...]:
    words = text_of(fields.get("system") or "", "system", empty=True)
    return (Message(role="system", content=words),) if words.strip() else ()


def _history(value: Json) -> tuple[Message, ...]:
    pairs = value or []
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise WrongRow("wrong history", f"history is {shape(value)}, expected pairs of question and answer")
    turns: Iterator[tuple[Role, Json]] = (turn for pair in pairs for turn in zip(_ASKS, pair, strict=True))
    return tuple(Message(role=role, content=text_of(said, "history")) for role, said in turns)


def _text(fields: Fields, name: str) -> str:
    return text_of(field_of(fields, name), name)


def _joined(fields: Fields, *names: str) -> str:
    """Texts one behind the other, a blank line between; the first or the last may be absent."""
    needed = "answer" if "answer" in names else names[0]
    texts = [_text(fields, name) if name == needed else _optional(fields, name) for name in names]
    return "\n\n".join(text for text in texts if text.strip())


def _optional(fields: Fields, name: str) -> str:
    return text_of(fields.get(name) or "", name, empty=True)
