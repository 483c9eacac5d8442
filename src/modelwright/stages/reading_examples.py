"""What a step of a fine-tuning or an alignment learned from: back to conversations and preference pairs.

Nothing was stored for it: settings, seed and sources say what was read, so it is read again in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from modelwright.base.artifact import STARTED, Artifact
from modelwright.base.config import validate
from modelwright.base.errors import UserError
from modelwright.base.files import canonical_json, read_json, sha256_text
from modelwright.base.schema import Conversation, Message, Preference
from modelwright.base.seeding import derive
from modelwright.data.conversations.sides import opening
from modelwright.data.readers.faults import Faults
from modelwright.stages import align, finetune
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.chat import written
from modelwright.training.batches import Pairs

Row = dict[str, Any]


def examples_of_step(made: Artifact, step: int) -> tuple[str, list[Row]]:
    """The kind of texts, and for each text of step `step` (from 1) its row, id, source and opening."""
    started = made.path / STARTED
    kind: Any = finetune if made.stage == "finetune" else align
    config = validate(kind.Config, made.manifest.config, str(made.path))
    if started.is_file() and read_json(started)["sources"] != kind.sources(config):
        raise UserError(
            f"the sources of {made.path} have changed since it was made: what its steps read cannot be told"
        )
    tokenizer = BPETokenizer.load(made.file("model"))
    if isinstance(config, finetune.Config):
        config = config.given(made.inputs())
        return "conversations", list(_conversations(config, tokenizer, made, step))
    return "preference pairs", list(_pairs(config, tokenizer, made, step))


def _conversations(
    config: finetune.Config, tokenizer: BPETokenizer, made: Artifact, step: int
) -> Iterator[Row]:
    laid = config.lay_out("train", tokenizer, made.manifest.seed, Faults(config.on_error))
    micro = _micro_batches(config, len(laid.batches), made, step)
    first = micro.start * config.rows
    for row in range(first, micro.stop * config.rows):
        for place in laid.batches.members(row):
            conversation = laid.conversations[place]
            yield _row(row - first, conversation, conversation.messages)


def _pairs(config: align.Config, tokenizer: BPETokenizer, made: Artifact, step: int) -> Iterator[Row]:
    seed = made.manifest.seed
    fitting, kept, _ = config.fitting("train", tokenizer, seed, Faults(config.on_error))
    pairs = Pairs(fitting, config.rows, derive(seed, "batches"), tokenizer.pad_id, epochs=config.epochs)
    places = [
        place for index in _micro_batches(config, len(pairs), made, step) for place in pairs.members(index)
    ]
    for number, place in enumerate(places):
        yield _row(2 * number, kept[place], kept[place].prompt)


def _micro_batches(config: finetune.Config | align.Config, count: int, made: Artifact, step: int) -> range:
    plan = config.plan(count)
    if not 1 <= step <= plan.steps:
        raise UserError(f"step {step} of {made.path}: it has steps 1 to {plan.steps}")
    return plan.of_step(step - 1)


def _row(row: int, text: Conversation | Preference, messages: Sequence[Message]) -> Row:
    """The id is a hash of all that the text says: it has no other name."""
    said: list[Any] = [[each.role, each.content, *map(written, each.tool_calls)] for each in messages]
    if isinstance(text, Preference):
        said += [text.chosen, text.rejected]
    return {
        "row": row,
        "id": sha256_text(canonical_json(said)),
        "source": str(text.meta.get("source", "unknown")),
        "opening": opening(messages),
    }
