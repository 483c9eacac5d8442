"""Conversations and preference pairs of one side: training or validation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from modelwright.base.policy import ANYTHING, Policy
from modelwright.base.schema import Conversation, Message, Preference
from modelwright.data.atlas.conversations import conversations
from modelwright.data.atlas.preferences import preferences
from modelwright.data.conversations.read import found_rows, made_of, read_conversations, read_preferences
from modelwright.data.readers.faults import Faults
from modelwright.data.readers.source import Source
from modelwright.data.split import Side, position, side_of

VALIDATION_FRACTION = 0.05
ENOUGH = 1000
"""Rows among which one with a question of its own is held out, but for one case in 10^22."""

T = TypeVar("T", Conversation, Preference)


def conversations_from(
    sources: Sequence[Source],
    seed: int,
    count: int,
    split: Side,
    faults: Faults | None = None,
    policy: Policy = ANYTHING,
    *,
    whole: bool = False,
    answered: bool = True,
) -> list[Conversation]:
    """At most `count` conversations from each source, of one side of the split, that the policy allows; with
    `whole`, all that files hold is of this side. `answered`: each must have an answer to learn from."""
    made: list[Conversation] = []
    for source in sources:
        if source.is_atlas:
            made += conversations(seed, count, split)
        else:
            read = read_conversations([source], faults, policy, answered=answered)
            made += _choose(read, lambda each: each.messages, seed, count, None if whole else split)
    return made


def may_be_held_out(sources: Sequence[Source], policy: Policy = ANYTHING, *, whole: bool = False) -> bool:
    """Whether files may hold a conversation that is held out, or, with `whole`, any at all. It ends with the
    first, or after so many rows that there surely is one: a large file is not read in full."""
    faults = Faults("skip")
    for number, found in enumerate(found_rows(sources, faults, policy, "conversations")):
        for made in made_of(found, "conversations", faults):
            if whole or side_of(opening(made.messages), VALIDATION_FRACTION) == "validation":
                return True
        if number >= ENOUGH:
            return True
    return False


def preferences_from(
    sources: Sequence[Source],
    seed: int,
    count: int,
    split: Side,
    faults: Faults | None = None,
    policy: Policy = ANYTHING,
) -> list[Preference]:
    """At most `count` preference pairs from each source, of one side of the split, that the policy allows."""
    made: list[Preference] = []
    for source in sources:
        if source.is_atlas:
            made += preferences(seed, count, split)
        else:
            read = read_preferences([source], faults, policy)
            made += _choose(read, lambda each: each.prompt, seed, count, split)
    return made


def _choose(
    items: list[T], messages_of: Callable[[T], tuple[Message, ...]], seed: int, count: int, split: Side | None
) -> list[T]:
    """One side of the split (None: all), by the opening question, so that no question is on both sides; and
    of it `count` drawn evenly, in the order of the file."""
    questions = [opening(messages_of(item)) for item in items]
    here = [
        (item, question)
        for item, question in zip(items, questions, strict=True)
        if split in (None, side_of(question, VALIDATION_FRACTION))
    ]
    order = sorted(range(len(here)), key=lambda index: position(f"{index}", f"{seed}\x1f{here[index][1]}"))
    return [here[index][0] for index in sorted(order[:count])]


def opening(messages: Sequence[Message]) -> str:
    """The first question; the first message where nobody asks."""
    return next((message.content for message in messages if message.role == "user"), messages[0].content)
