"""Held-out losses one by one, so that two models can be compared on the same texts and not by two sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from modelwright.base.seams import Objective
from modelwright.evaluation.likelihood import sums_by_document
from modelwright.evaluation.statistics import Scores
from modelwright.model.transformer import Transformer
from modelwright.stages.text_view import TextView
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.shards import TokenShards
from modelwright.training.batches import FiniteBatches

FEW = 20
"""Fewer documents than this are cut into their windows: one novel is no sample."""


@dataclass(frozen=True, slots=True)
class Judge:
    """Measures a model on what was held out."""

    metric: str
    unit: str
    measure: Callable[[], Scores]


def by_text(view: TextView, model: Transformer, shards: TokenShards, tokenizer: BPETokenizer) -> Judge:
    """Bits per byte of held-out documents, each read alone."""
    edges = list(pairwise(shards.boundaries))
    read, count = 0, 0
    for start, end in edges:  # how many documents the limit leaves
        count, read = count + 1, read + int(end - start) - 1
        if read >= view.validation_tokens:
            break
    few = count < FEW

    def measure() -> Scores:
        documents = (shards.read(int(start), int(end - start)).tolist() for start, end in edges)
        pairs, _ = sums_by_document(
            model,
            documents,
            tokenizer.byte_lengths,
            max_tokens=view.validation_tokens,
            window=view.context,
            device=str(next(model.parameters()).device),
            by_window=few,
        )
        return Scores(tuple(nats / math.log(2) for nats, _ in pairs), tuple(size for _, size in pairs))

    return Judge(
        "validation_bits_per_byte", f"windows of {view.context} tokens" if few else "documents", measure
    )


def by_objective(model: Transformer, objective: Objective, batches: FiniteBatches, unit: str) -> Judge:
    """The objective's loss on each unit of a finite row of micro-batches: a row of conversations, a pair."""

    @torch.no_grad()
    def measure() -> Scores:
        device = next(model.parameters()).device
        found: list[tuple[float, int]] = []
        for index in range(len(batches)):
            batch = batches[index].to(device)
            for place in range(batch.units):
                part = batch.part(place, place + 1)
                size = objective.count(part)
                if size:
                    loss, _ = objective(model.on_batch(part), part)
                    found.append((float(loss), size))
        return Scores(*_columns(found))

    return Judge("validation_loss", unit, measure)


def _columns(rows: Sequence[tuple[float, int]]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return tuple(loss for loss, _ in rows), tuple(float(size) for _, size in rows)
