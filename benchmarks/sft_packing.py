"""Fine-tuning on conversations in packed rows, against one conversation a row, padded.

The same network (random weights), the same conversations (OpenAssistant's, 100 English trees), the same
optimizer and format; the sides take turns step by step in one process. Counted are the tokens of
conversations: padding is work, and no result. "padded" is what trainers do by default: conversations in a
random order, each micro-batch as long as its longest; "grouped" is `batching: grouped`. Packed rows keep
conversations apart by a mask, so that their loss is that of the padded ones: that is measured too, in fp32.
All have the same number of rows in a micro-batch, and each step ends with an update, which fuller steps share
among more tokens.

    make bench NAME=sft_packing
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from modelwright.base.device import choose, keep_freed_memory
from modelwright.base.schema import Batch
from modelwright.model.config import ModelChoice
from modelwright.model.init import initialize
from modelwright.model.transformer import Transformer
from modelwright.objectives.next_token import NextToken
from modelwright.tokenizer.chat import render
from modelwright.training.batches import Example, FiniteBatches, Grouped, Packed, padded
from modelwright.training.optimizer import Optimizer, OptimizerConfig
from record import Row, compare, publish
from sft_data import conversations, learned_tokenizer

CHOICE, VOCABULARY, CONTEXT, ROWS = ModelChoice(depth=6), 4096, 1024, 8
WARM_UP, ROUNDS, MEASURED = 2, 14, 32
"""Steps of each side that are not timed, those that are, and conversations whose loss is compared."""
BAR = 2.0


class Padded:
    """One conversation a row in a random order, as long as the longest of its micro-batch."""

    def __init__(self, examples: list[Example], rows: int, seed: int, padding: int) -> None:
        order = np.random.default_rng(seed).permutation(len(examples))
        self._groups = [[examples[n] for n in order[at : at + rows]] for at in range(0, len(order), rows)]
        self._padding = padding

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, index: int) -> Batch:
        return padded(self._groups[index], self._padding)


def sides_of(examples: list[Example], rows: int, padding: int) -> dict[str, FiniteBatches]:
    """The three ways to lay them out."""
    return {
        "packed": Packed(examples, rows, CONTEXT, 1, padding),
        "grouped": Grouped(examples, rows, CONTEXT, 1, padding),
        "padded": Padded(examples, rows, 1, padding),
    }


class Trainee:
    """A network that takes steps."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.model = Transformer(CHOICE.derive(VOCABULARY), dtype)
        initialize(self.model, 1)
        self._optimizer = Optimizer(self.model.named_parameters(), OptimizerConfig(learning_rate=1e-4), dtype)

    def step(self, batch: Batch) -> None:
        """Forward, backward, update."""
        loss, _ = NextToken()(self.model.on_batch(batch), batch)
        (loss / NextToken().count(batch)).backward()
        self._optimizer.clip(float(self._optimizer.norm()))
        self._optimizer.step(1.0)
        self._optimizer.zero_grad()


def speeds(sides: dict[str, FiniteBatches], padding: int, dtype: torch.dtype) -> dict[str, list[float]]:
    """Tokens of conversations per second, step by step. A last micro-batch that is not full is left out."""
    trainees = {name: Trainee(dtype) for name in sides}
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(WARM_UP + ROUNDS):
        for name, side in sides.items():
            batch = side[number % (len(side) - 1)]
            start = time.perf_counter()
            trainees[name].step(batch)
            seconds = time.perf_counter() - start
            if number >= WARM_UP:
                found[name].append(int((batch.ids != padding).sum()) / seconds)
    return found


@torch.no_grad()
def losses(examples: list[Example], padding: int) -> dict[str, float]:
    """Nats per token over the same conversations in fp32, by how they are laid out."""
    model, objective = Trainee(torch.float32).model, NextToken()

    def parts(side: FiniteBatches) -> Iterator[tuple[Tensor, int]]:
        for index in range(len(side)):
            batch = side[index]
            yield objective(model.on_batch(batch), batch)[0].double(), objective.count(batch)

    found: dict[str, float] = {}
    for name, side in sides_of(examples, 2, padding).items():
        sums, counts = zip(*parts(side), strict=True)
        found[name] = float(sum(sums)) / sum(counts)
    return found


def main() -> None:
    """Measure, print and write the result."""
    keep_freed_memory()
    device = choose("cpu", "auto")
    talks = conversations()
    tokenizer = learned_tokenizer(VOCABULARY)
    rendered = [render(tokenizer, talk) for talk in talks]
    examples = [Example(each.ids, each.mask) for each in rendered if len(each.ids) <= CONTEXT + 1]
    same = losses(examples[:MEASURED], tokenizer.pad_id)
    apart = max(abs(value / same["padded"] - 1) for value in same.values())
    sides = sides_of(examples, ROWS, tokenizer.pad_id)
    found = speeds(sides, tokenizer.pad_id, device.dtype)
    rows: list[Row] = [
        compare(name, "tokens/s", found[name], found["padded"], "padded", BAR if name == "packed" else None)
        for name in ("packed", "grouped")
    ]
    share = {
        name: sum(int((side[n].ids != tokenizer.pad_id).sum()) for n in range(len(side)))
        / sum(side[n].ids.numel() for n in range(len(side)))
        for name, side in sides.items()
    }
    publish(
        "sft_packing",
        rows,
        ["torch"],
        f"{CHOICE.depth} layers, {len(examples)} of {len(talks)} conversations, which fit {CONTEXT} tokens "
        f"of a vocabulary of {VOCABULARY}, {ROWS} rows a micro-batch, {device.dtype}",
        {"loss": same, "largest_relative_difference_of_loss": apart, "share_that_is_no_padding": share},
    )
    if apart > 1e-5:
        sys.exit(f"losses differ by {apart:.1e} of themselves: expected 1e-5 at most")


if __name__ == "__main__":
    main()
