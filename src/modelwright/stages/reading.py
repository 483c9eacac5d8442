"""What a pre-training read: from a step to its documents, and from a document to its steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modelwright.base.artifact import Artifact
from modelwright.base.config import validate
from modelwright.base.errors import UserError
from modelwright.base.seeding import derive
from modelwright.stages import pretrain
from modelwright.stages.text_view import Order
from modelwright.tokenizer.shards import TokenShards
from modelwright.training.step_plan import StepPlan


@dataclass(frozen=True, slots=True)
class Read:
    """A piece of a document that a row of a step was made of."""

    row: int
    """Within the step, from 0."""
    document: str
    source: str
    first: int
    """The piece's first token, counted from the beginning of the document."""
    tokens: int


@dataclass(frozen=True, slots=True)
class Reading:
    """A finished pre-training and the order in which it read its shards."""

    model: Artifact
    shards: TokenShards
    order: Order
    context: int
    rows: int
    """In a micro-batch."""
    plan: StepPlan

    def of_step(self, step: int) -> Iterator[Read]:
        """What step `step` (from 1, as in metrics.jsonl) was trained on, row by row."""
        if not 1 <= step <= self.plan.steps:
            raise UserError(f"step {step} of {self.model.path}: it has steps 1 to {self.plan.steps}")
        micro = self.plan.of_step(step - 1)
        first = micro.start * self.rows
        for row in range(first, micro.stop * self.rows):
            for start, length in self.order.spans(row, self.context):
                yield from self._pieces(row - first, start, length)

    def _pieces(self, row: int, start: int, length: int) -> Iterator[Read]:
        edges = self.shards.boundaries
        number = int(np.searchsorted(edges, start, side="right")) - 1
        while length > 0:
            size = min(length, int(edges[number + 1]) - start)
            document, source = self.shards.document(number)
            yield Read(row, document, source, start - int(edges[number]), size)
            start, length, number = start + size, length - size, number + 1

    def steps_of(self, document: str) -> list[int]:
        """The steps that read any token of a document, by its id (hex sha256)."""
        edges = self.shards.boundaries
        wanted = [(int(edges[n]), int(edges[n + 1])) for n in self.shards.find(document)]
        found = {
            self.plan.step_of(row // self.rows) + 1
            for row in range(self.plan.micro_batches * self.rows if wanted else 0)
            for start, length in self.order.spans(row, self.context)
            if any(start < end and first < start + length for first, end in wanted)
        }
        return sorted(found)


def reading_of(path: Path, ancestors: list[Artifact]) -> Reading:
    """The pre-training among an artifact's ancestors, opened again."""
    model = next((made for made in ancestors if made.stage == "pretrain"), None)
    if model is None:
        raise UserError(f"no pre-trained model is left above {path}: its steps cannot be traced")
    config = validate(pretrain.Config, model.manifest.config, str(model.path))
    tokens = next(
        (model.parent(named)[0] for named in model.manifest.parents if named.role == "tokens"), None
    )
    if tokens is None:
        raise UserError(f"the token shards that {model.path} was trained on are gone or have been made anew")
    shards = TokenShards.open(tokens.file("train"))
    plan = config.plan_for(config.tokens or pretrain.TOKENS_PER_PARAMETER * int(model.metrics["parameters"]))
    order = config.order(shards, derive(model.manifest.seed, "batches"), plan.micro_batches * config.rows)
    return Reading(model, shards, order, config.context, config.rows, plan)
