"""The view of documents: windows of tokens in an order fixed before training, and what they measure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from pydantic import Field

from modelwright.base.config import Config
from modelwright.base.seeding import derive
from modelwright.data.mix import Group, Mix, plan
from modelwright.evaluation.likelihood import part_of_sums
from modelwright.model.transformer import Transformer
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.selection import Selection
from modelwright.tokenizer.shards import TokenShards
from modelwright.training.batches import Mixture, Windows

if TYPE_CHECKING:
    from modelwright.training.loop import Validate
    from modelwright.training.spread import Spread


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

    def measure(
        self, model: Transformer, shards: TokenShards, tokenizer: BPETokenizer, spread: Spread
    ) -> Validate:
        """Bits per byte on held-out documents, each read alone, shared among the processes that hold the
        model."""
        lengths, (place, of) = tokenizer.byte_lengths, spread.place

        def validate() -> dict[str, float]:
            ends = pairwise(shards.boundaries)
            documents = (shards.read(int(start), int(end - start)).tolist() for start, end in ends)
            limits = {"max_tokens": self.validation_tokens, "window": self.context, "place": place, "of": of}
            mine = part_of_sums(model, documents, lengths, **limits, device=str(spread.device))
            found = spread.totals(mine)
            return {"validation_bits_per_byte": found["nats"] / found["bytes"] / math.log(2)}

        return validate
