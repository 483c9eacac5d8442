"""Views of data: how documents, conversations and pairs become what the loop trains and measures on.

A training stage inherits its view's settings. `average` builds the same held-out measure again from
the settings in the manifest, so that its candidates are judged as training judged them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import compress, pairwise
from typing import TYPE_CHECKING, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from modelwright import objectives
from modelwright.base.config import Config, Settings
from modelwright.base.errors import UserError
from modelwright.base.run import Run
from modelwright.base.schema import Batch, Conversation, Message, Preference
from modelwright.base.seams import Objective
from modelwright.base.seeding import derive
from modelwright.data.mix import Group, Mix, plan
from modelwright.data.readers.source import Source
from modelwright.data.sources import conversations_from, preferences_from, provenance_of, statements
from modelwright.data.split import Side
from modelwright.evaluation.likelihood import bits_per_byte
from modelwright.model.transformer import Transformer
from modelwright.objectives.next_token import NextToken
from modelwright.objectives.preference import sequence_logps
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.chat import render
from modelwright.tokenizer.selection import Selection
from modelwright.tokenizer.shards import TokenShards
from modelwright.training.batches import Example, Mixture, Packed, Pairs, Windows
from modelwright.training.loop import mean_loss

if TYPE_CHECKING:
    from modelwright.training.loop import Validate

ATLAS = (Source(path="atlas"),)


@dataclass(frozen=True, slots=True)
class Order:
    """What a training reads, row by row, and where that stands in the shards."""

    batches: Windows | Mixture
    streams: tuple[Selection, ...]
    groups: tuple[Group, ...]

    def spans(self, row: int, length: int) -> Iterator[tuple[int, int]]:
        """(first token, tokens) in the shards of what a row of training reads, in order."""
        start = self.batches.start_of(row)
        stream, place = start if isinstance(start, tuple) else (0, start)
        return self.streams[stream].spans(place, length)

    def describe(self, rows: int) -> Iterator[str]:
        """Lines for the log: what is read how often, and what not at all."""
        for group in self.groups:
            share = f"{group.rows / rows:.1%} of training, " if len(self.groups) > 1 else ""
            often = f"read {group.epochs:.2f} times" if group.rows else "left out"
            yield f"text of {group.name}: {share}{group.tokens:,} tokens {often}"


class TextView(Config):
    """Documents as windows of tokens."""

    context: int = Field(default=256, gt=1)
    """Tokens in a window (T)."""
    rows: int = Field(default=16, gt=0)
    """Windows in a micro-batch (B)."""
    validation_tokens: int = Field(default=25_000, gt=0)
    """Held-out tokens that each measurement reads."""
    mix: Mix | None = None
    """How much of training each source gives, and a curriculum. None: all text as often as it comes."""

    def order(self, shards: TokenShards, seed: int, rows: int) -> Order:
        """The `rows` rows of a training: which tokens each reads."""
        end = shards.index.end_of_text_id
        if self.mix is None:
            everything = Selection(shards, shards.index.sources)
            whole = Group("all", shards.index.sources, len(shards), rows, rows * self.context / len(shards))
            return Order(Windows(everything, self.rows, self.context, seed, end), (everything,), (whole,))
        planned = plan(self.mix, shards.tokens_of_sources(), rows, self.context)
        streams = [Selection(shards, group.sources) for group in planned.groups]
        windows = [
            Windows(stream, self.rows, self.context, derive(seed, "group", group.name), end)
            if group.rows
            else None
            for stream, group in zip(streams, planned.groups, strict=True)
        ]
        return Order(Mixture(windows, planned.choice, self.rows, end), tuple(streams), planned.groups)

    def measure(self, model: Transformer, shards: TokenShards, tokenizer: BPETokenizer) -> Validate:
        """Bits per byte on held-out documents, each read alone."""
        lengths = tokenizer.byte_lengths
        device = str(next(model.parameters()).device)

        def validate() -> dict[str, float]:
            ends = pairwise(shards.boundaries)
            documents = (shards.read(int(start), int(end - start)).tolist() for start, end in ends)
            limits = {"max_tokens": self.validation_tokens, "window": self.context}
            found = bits_per_byte(model, documents, lengths, **limits, device=device)
            return {"validation_bits_per_byte": found.value}

        return validate


class ConversationView(Config):
    """Conversations packed into rows; only the assistant's turns are learned."""

    sources: tuple[Source, ...] = ATLAS
    """Files of conversations (rows with `messages`), and the embedded corpus by its name."""
    conversations: int = Field(default=6000, gt=0)
    """At most this many from each source."""
    validation_conversations: int = Field(default=200, gt=0)
    """Held-out conversations that each measurement reads, from each source."""
    epochs: int = Field(default=2, gt=0)
    """How often each is trained on."""
    context: int = Field(default=256, gt=1)
    """Tokens in a row; several conversations share one."""
    rows: int = Field(default=16, gt=0)
    """Rows in a micro-batch."""

    def pack(self, side: Side, tokenizer: BPETokenizer, run: Run, seed: int) -> Packed:
        """One side's conversations; what does not fit a row is counted and said."""
        training = side == "train"
        count = self.conversations if training else self.validation_conversations
        found = conversations_from(self.sources, derive(seed, "data"), count, side)
        examples = [supervised(tokenizer, conversation) for conversation in found]
        order = derive(seed, "batches")
        epochs = self.epochs if training else 1
        packed = Packed(examples, self.rows, self.context, order, tokenizer.pad_id, epochs)
        if training:
            run.brings_in(
                provenance_of([found[index] for index in packed.kept]).stating(statements(self.sources))
            )
        left_out = (
            f"{packed.too_long:,} over {self.context} tokens, {packed.without_target:,} without an answer"
        )
        run.log(f"{side}: {len(found):,} conversations; left out: {left_out}")
        return packed

    def measure(self, model: Transformer, tokenizer: BPETokenizer, run: Run, seed: int) -> Validate:
        """Nats per token of held-out assistant turns."""
        held_out = self.pack("validation", tokenizer, run, seed)
        return lambda: {"validation_loss": mean_loss(model, NextToken(), held_out)["loss"]}


class PairView(Config):
    """Preference pairs beside the log-probabilities of a frozen reference."""

    sources: tuple[Source, ...] = ATLAS
    """Files of pairs (rows with prompt, chosen, rejected), and the embedded corpus by its name."""
    pairs: int = Field(default=2000, gt=0)
    """At most this many from each source."""
    validation_pairs: int = Field(default=200, gt=0)
    """Held-out pairs that each measurement reads, from each source."""
    epochs: int = Field(default=1, gt=0)
    """How often each is trained on."""
    context: int = Field(default=512, gt=1)
    """Pairs with a longer side are left out, and counted."""
    rows: int = Field(default=32, gt=0)
    """Pairs in a micro-batch (two rows each)."""
    objective: Settings = {"name": "preference"}
    """The loss, a file of `objectives/` by name, and its settings: {name: preference, beta: 0.2}."""

    @model_validator(mode="after")
    def _objective_exists(self) -> Self:
        self.loss()
        return self

    def loss(self) -> Objective:
        """The objective, built."""
        return objectives.build(self.objective)

    def pair_up(
        self, side: Side, reference: Transformer, tokenizer: BPETokenizer, run: Run, seed: int
    ) -> Pairs:
        """One side's pairs; `reference` is the policy as it was at the start."""
        training = side == "train"
        count = self.pairs if training else self.validation_pairs
        found = preferences_from(self.sources, derive(seed, "data"), count, side)
        pairs = [answers(tokenizer, preference) for preference in found]
        fits = [max(len(example.ids) for example in pair) <= self.context for pair in pairs]
        fitting = list(compress(pairs, fits))
        if not fitting:
            raise UserError(
                f"none of {len(found):,} {side} pairs fits {self.context} tokens: "
                "give align.sources more pairs, or raise align.context"
            )
        if training:
            run.brings_in(provenance_of(list(compress(found, fits))).stating(statements(self.sources)))
        left_out = len(found) - len(fitting)
        run.log(f"{side}: {len(found):,} pairs; left out: {left_out:,} over {self.context} tokens")
        order, epochs = derive(seed, "batches"), self.epochs if training else 1
        in_order = Pairs(fitting, self.rows, order, tokenizer.pad_id).in_order(self.rows)
        logps = reference_logps(reference, in_order, run)
        return Pairs(fitting, self.rows, order, tokenizer.pad_id, logps, epochs)

    def measure(
        self, model: Transformer, reference: Transformer, tokenizer: BPETokenizer, run: Run, seed: int
    ) -> Validate:
        """Loss on held-out pairs, and how many of them are ranked right."""
        held_out = self.pair_up("validation", reference, tokenizer, run, seed)

        def validate() -> dict[str, float]:
            found = mean_loss(model, self.loss(), held_out)
            return {f"validation_{name}": value for name, value in found.items()}

        return validate


def supervised(tokenizer: BPETokenizer, conversation: Conversation) -> Example:
    """A conversation's tokens, learned where the assistant speaks."""
    rendered = render(tokenizer, conversation)
    return Example(rendered.ids, rendered.mask)


def answers(tokenizer: BPETokenizer, preference: Preference) -> tuple[Example, Example]:
    """The prompt with each of its two answers; only the answer and its end of turn count."""
    prompt = Conversation(messages=preference.prompt)
    given = len(render(tokenizer, prompt, add_generation_prompt=True).ids)

    def example(answer: str) -> Example:
        turns = (*preference.prompt, Message(role="assistant", content=answer))
        whole = render(tokenizer, Conversation(messages=turns))
        return Example(whole.ids, [False] * given + whole.mask[given:])

    return example(preference.chosen), example(preference.rejected)


@torch.no_grad()
def reference_logps(reference: Transformer, batches: Sequence[Batch], run: Run) -> Tensor:
    """(2P,) log-probability of each answer under the reference."""
    device = next(reference.parameters()).device
    found: list[Tensor] = []
    with run.progress("reference", len(batches)) as bar:
        for batch in batches:
            placed = batch.to(device)
            found.append(sequence_logps(reference.on_batch(placed), placed.targets).cpu())
            bar.advance()
    return torch.cat(found)
