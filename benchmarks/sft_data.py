"""What the benchmarks of fine-tuning train on: OpenAssistant's conversations as tokens, and a model to begin
with, in a folder from which every side reads them."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path

from modelwright.base.schema import Conversation, Message
from modelwright.formats.huggingface import save_model
from modelwright.model.config import ModelConfig
from modelwright.model.init import initialize
from modelwright.model.transformer import Transformer
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.chat import render
from modelwright.tokenizer.learn import learn
from modelwright.training.batches import Example

DATA = Path(__file__).parents[2] / "shared" / "data" / "oasst_trees" / "sft_messages.jsonl.gz"
MODEL, TOKENS = "model", "tokens.json"
"""Inside a prepared folder: a Hugging Face folder, and examples to train on and to hold out."""
HELD_OUT = 10
"""Every how-manieth conversation is held out."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a side begins with."""

    model: Path
    padding: int
    train: list[Example]
    held_out: list[Example]


def conversations() -> list[Conversation]:
    """Those of the file, of which a tree gives several that begin alike."""
    if not DATA.is_file():
        raise SystemExit(f"{DATA} is absent: this benchmark reads OpenAssistant's conversations there")
    with gzip.open(DATA, "rt", encoding="utf-8") as file:
        rows = [json.loads(line)["messages"] for line in file]
    return [Conversation(messages=tuple(Message(**message) for message in row)) for row in rows]


def learned_tokenizer(vocabulary: int) -> BPETokenizer:
    """A vocabulary of the conversations' own words."""
    return learn((m.content for talk in conversations() for m in talk.messages), vocabulary)


def prepare(folder: Path, shape: ModelConfig, context: int) -> None:
    """Write random weights of a shape, and the conversations that fit `context` tokens of its vocabulary."""
    tokenizer = learned_tokenizer(shape.vocab_size)
    tokenizer.save(folder / "tokenizer")
    model = Transformer(shape)
    initialize(model, 1)
    save_model(folder / MODEL, model, folder / "tokenizer")
    write_tokens(folder, tokenizer, context)


def write_tokens(folder: Path, tokenizer: BPETokenizer, context: int) -> None:
    """The conversations of at most `context` tokens in which something is learned."""
    rendered = [render(tokenizer, talk) for talk in conversations()]
    fitting = [(each.ids, each.mask) for each in rendered if len(each.ids) <= context and any(each.mask[1:])]
    sides = {
        "padding": tokenizer.pad_id,
        "train": [each for number, each in enumerate(fitting) if number % HELD_OUT],
        "held_out": fitting[::HELD_OUT],
    }
    (folder / TOKENS).write_text(json.dumps(sides), encoding="utf-8")


def prepared(folder: Path) -> Prepared:
    """Read what `prepare` wrote."""
    found = json.loads((folder / TOKENS).read_text(encoding="utf-8"))
    train, held_out = ([Example(*pair) for pair in found[side]] for side in ("train", "held_out"))
    return Prepared(folder / MODEL, found["padding"], train, held_out)
