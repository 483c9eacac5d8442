"""How many rows there will be, and how long they are, for a forecast: from a sample, without a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from modelwright.base.errors import UserError
from modelwright.base.schema import Conversation, Message, Preference
from modelwright.data.conversations.sides import conversations_from, preferences_from
from modelwright.data.readers.faults import Faults
from modelwright.data.synthesis.tasks import last_question
from modelwright.training.batches import Example, Packed

SAMPLE = 300
"""Conversations and pairs that are read to know how long the others are."""
BYTES_PER_TOKEN, PAIR_BYTES_PER_TOKEN = 3.7, 3.9
"""In conversations and in pairs: measured on those of the embedded corpus, with its vocabulary of 4,096."""
TURN_TOKENS = 6.5
"""What the chat template adds to a message (measured there)."""
END_TOKENS = 2.0
"""Of a message, behind what it says: the end of its turn, which is learned."""
PACKED = 8000
"""Examples that are packed to know how full rows are."""
PAD_MULTIPLE = 32
"""Rows of pairs are padded to a multiple of this (training/batches.py)."""


def tokens_of(messages: Sequence[Message], bytes_per_token: float = BYTES_PER_TOKEN) -> float:
    """About, of turns in the chat template."""
    return sum(len(each.content.encode()) / bytes_per_token + TURN_TOKENS for each in messages)


def sampled_conversations(sources: Sequence[Any], count: int) -> list[Conversation]:
    """A sample of those that are learned from. Raises UserError where there is none."""
    found = conversations_from(sources, 0, min(count, SAMPLE), "train", Faults("skip"), answered=False)
    if not found:
        raise UserError("the sources hold no conversation: nothing can be planned")
    return found


def answered(conversations: Sequence[Conversation]) -> float:
    """Share of the tokens of conversations that are learned: what the assistant says, and its ends of
    turn."""
    said = [each for talk in conversations for each in talk.messages if each.role == "assistant"]
    learned = sum(len(each.content.encode()) / BYTES_PER_TOKEN + END_TOKENS for each in said)
    return learned / sum(tokens_of(talk.messages) for talk in conversations)


@dataclass(frozen=True, slots=True)
class Filled:
    """What examples come to that share rows."""

    rows: int
    """For all of them once."""
    share: float
    """Of the rows that holds examples; the rest is padding."""
    document: float
    """Tokens of the example that the mean token stands in, a row's padding counted as one: sum l^2 / sum l
    (model/flops.py)."""


def pack(lengths: Sequence[float], count: int, context: int) -> Filled:
    """`count` examples of lengths as in a sample, in rows of `context` tokens, as training packs them. Those
    that are longer have a row each, as if they were cut."""
    tried = min(count, PACKED)
    sizes = [max(1, min(context, round(lengths[at % len(lengths)]) - 1)) for at in range(tried)]
    examples = [Example(range(size + 1), [True] * (size + 1)) for size in sizes]
    packed = Packed(examples, rows=1, length=context, seed=0, padding=0)
    held, squares = sum(sizes), sum(size * size for size in sizes)
    for row in range(len(packed)):
        squares += (context - sum(sizes[member] for member in packed.members(row))) ** 2
    places = len(packed) * context
    return Filled(ceil(len(packed) * count / tried), held / places, squares / places)


def mean_prompt(conversations: Sequence[Conversation]) -> float:
    """Tokens before the last answer, on average."""
    prompts = [last_question(each)[0].messages for each in conversations]
    return sum(map(tokens_of, prompts)) / len(prompts)


def pair_lengths(sources: Sequence[Any], count: int) -> list[int]:
    """Tokens of a sample of pairs: the prompt with the longer answer."""
    found: list[Preference] = preferences_from(sources, 0, min(count, SAMPLE), "train", Faults("skip"))
    if not found:
        raise UserError("the sources hold no preference pair: nothing can be planned")

    def length(pair: Preference) -> int:
        longer = max(len(pair.chosen.encode()), len(pair.rejected.encode()))
        answer = longer / PAIR_BYTES_PER_TOKEN + TURN_TOKENS
        return round(tokens_of(pair.prompt, PAIR_BYTES_PER_TOKEN) + answer)

    return [length(pair) for pair in found]


def how_many(sources: Sequence[Any], wanted: int, read: Any) -> int:
    """Of a source that ends within the sample, what it holds, else what is wanted."""
    sample = min(wanted, SAMPLE)
    counts = [len(read((source,), 0, sample, "train", Faults("skip"))) for source in sources]
    return sum(wanted if count >= sample else count for count in counts)


def padded(length: int) -> int:
    """To a multiple, as rows are: without the last token, which is only foretold."""
    return -(-(length - 1) // PAD_MULTIPLE) * PAD_MULTIPLE


def mean_padded(lengths: Sequence[int], share: float) -> float:
    """Tokens of a row, on average, where rows of like length share a micro-batch and are padded to its
    longest. `lengths` are a sample, sorted; a micro-batch holds this share of all."""
    size = max(1, round(share * len(lengths)))
    batches = [lengths[at : at + size] for at in range(0, len(lengths), size)]
    return sum(len(batch) * padded(batch[-1]) for batch in batches) / len(lengths)


def largest_padded(lengths: Sequence[int], share: float) -> int:
    """Tokens of the largest micro-batch, for each row of a full one: the longest rows may be few, and lie in
    one that is not full. `lengths` and `share` as above."""
    size = max(1, round(share * len(lengths)))
    batches = [lengths[at : at + size] for at in range(0, len(lengths), size)]
    return max(len(batch) * padded(batch[-1]) // size for batch in batches)
