"""How much arithmetic a token costs: against torch's own count, and against masks that are looked through."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from modelwright.base.schema import IGNORE, Batch
from modelwright.model.attention import segment_mask
from modelwright.model.config import ModelConfig
from modelwright.model.flops import (
    SAMPLE,
    document_lengths,
    forward_flops_per_token,
    mean_token,
    training_flops_per_token,
)
from modelwright.model.init import initialize
from modelwright.model.transformer import Transformer
from modelwright.objectives.next_token import NextToken

SIZES = {
    "vocab_size": 96, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
}  # fmt: skip
SHAPE = ModelConfig.model_validate({"architecture": "qwen3", **SIZES})
DOCUMENTS = (((20, 10), (12, 6), (32, 16)), ((40, 24), (16, 8)))
"""Rows of documents: (tokens, supervised ones, the last). The second row of 64 ends in padding."""


def packed() -> Batch:
    """(2, 64), 64 tokens of which are supervised: a whole block, which is what logits are made in."""
    segments, targets = torch.full((2, 64), -1), torch.full((2, 64), IGNORE)
    for row, documents in enumerate(DOCUMENTS):
        end = 0
        for number, (length, supervised) in enumerate(documents):
            segments[row, end : end + length] = number
            end += length
            targets[row, end - supervised : end] = 7
    return Batch(ids=torch.arange(128).view(2, 64) % 96, targets=targets, segments=segments)


def counted(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> int:
    """What torch counts of a step, attention left out: that is written out differently everywhere."""
    model = Transformer(SHAPE)
    initialize(model, 0)

    def mixed(q: Tensor, k: Tensor, v: Tensor, *_given: Any, **_named: Any) -> Tensor:
        return q + k.sum() + v.sum()

    monkeypatch.setattr("modelwright.model.attention.attend", mixed)

    def product(a: tuple[int, int], b: tuple[int, int], *_given: Any, **_named: Any) -> int:
        return 0 if a[0] == 1 else 2 * a[0] * a[1] * b[1]  # norms add up gradients by products with one row

    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.mm: product}) as counter:
        loss, _ = NextToken()(model.on_batch(batch), batch)
        loss.backward()
    return counter.get_total_flops()


def test_the_linear_parts_are_those_that_torch_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of packed rows, in which half of the tokens make no logits; and of rows that are learned whole."""
    batch = packed()
    mean, tokens = mean_token(lambda _: batch, 1), batch.ids.numel()
    assert mean.supervised == 0.5 and mean.positions == tokens == 128
    linear = tokens * training_flops_per_token(SHAPE, 0, mean.supervised)
    assert counted(batch, monkeypatch) == pytest.approx(linear, rel=1e-12)
    whole = Batch(ids=batch.ids, targets=batch.ids, segments=batch.segments)
    assert counted(whole, monkeypatch) == pytest.approx(
        tokens * training_flops_per_token(SHAPE, 0), rel=1e-12
    )


def test_attention_is_that_of_the_documents_by_hand() -> None:
    """Scores and mixes are two products of l x l x width in each document and layer, three times over."""
    batch = packed()
    mean, width, layers = mean_token(lambda _: batch, 1), 4 * 16, 2
    attended = mean.training_flops(SHAPE) - training_flops_per_token(SHAPE, 0, mean.supervised)
    assert batch.segments is not None
    squares = 0
    for row in batch.segments.tolist():
        borders = [0, *(at for at in range(1, 64) if row[at] != row[at - 1]), 64]
        squares += sum((end - start) ** 2 for start, end in pairwise(borders))
    by_hand = 3 * layers * 2 * (2 * width * squares)
    assert attended * batch.ids.numel() == pytest.approx(by_hand, rel=1e-12)
    assert by_hand < 3 * layers * 2 * (2 * width * 64 * 64 * 2), "less than rows that are looked at whole"


def test_a_forward_pass_is_a_third_and_frozen_weights_have_no_gradients() -> None:
    forward, training = forward_flops_per_token(SHAPE, 50, 0.3), training_flops_per_token(SHAPE, 50, 0.3)
    frozen = training_flops_per_token(SHAPE, 50, 0.3, frozen=True)
    assert training == 3 * forward
    assert training - frozen == pytest.approx(forward_flops_per_token(SHAPE, 0, 0.3))


rows_of_documents = st.lists(
    st.lists(st.integers(1, 12), min_size=1, max_size=6).filter(lambda row: sum(row) <= 40),
    min_size=1,
    max_size=4,
)


@given(rows_of_documents, st.integers(1, 14) | st.none())
@settings(max_examples=60, deadline=None)
def test_the_context_is_what_masks_allow(rows: list[list[int]], window: int | None) -> None:
    """A causal mask shows a token between half of that and all of it: halving is not taken."""
    segments = torch.full((len(rows), 40), -1)
    for place, row in enumerate(rows):
        named = [number for number, length in enumerate(row) for _ in range(length)]
        segments[place, : len(named)] = torch.tensor(named)
    targets = torch.where(segments >= 0, 1, IGNORE)
    batch = Batch(ids=segments, targets=targets, segments=segments)
    whole = [*row_lengths(rows)]
    assert document_lengths(batch).tolist() == whole
    mean = mean_token(lambda _: batch, 1)
    expected = sum(n * min(n, window or n) for n in whole) / (40 * len(rows))
    assert mean.context(window) == pytest.approx(expected)
    shown = float(segment_mask(segments, window).sum()) / segments.numel()
    assert mean.context(window) / 2 <= shown <= mean.context(window) + 1e-9
    assert mean.supervised == pytest.approx(sum(map(sum, rows)) / (40 * len(rows)))


def row_lengths(rows: list[list[int]]) -> list[int]:
    """Documents, and the padding behind them."""
    return [n for row in rows for n in (*row, 40 - sum(row)) if n]


def test_a_window_bounds_what_is_counted() -> None:
    seen = SHAPE.model_copy(update={"sliding_window": 10})
    assert forward_flops_per_token(seen, 500) == forward_flops_per_token(SHAPE, 10)
    batch = packed()
    mean = mean_token(lambda _: batch, 1)
    context = mean.context(10)
    assert 9 < context < 10, "the padding is shorter than the window"
    assert mean.training_flops(seen) == training_flops_per_token(SHAPE, context, mean.supervised)


def test_rows_without_segments_are_one_document_each() -> None:
    ids = torch.zeros(3, 32, dtype=torch.int64)
    batch = Batch(ids=ids, targets=ids)
    mean = mean_token(lambda _: batch, 7)
    assert (mean.context(), mean.supervised, mean.positions) == (32, 1, 96)


def test_long_trainings_are_sampled_evenly_and_short_ones_read_whole() -> None:
    asked: list[int] = []

    def batch(index: int) -> Batch:
        asked.append(index)
        ids = torch.zeros(1, 1 + index % 5, dtype=torch.int64)
        return Batch(ids=ids, targets=ids)

    mean_token(batch, 9)
    assert asked == list(range(9))
    asked.clear()
    mean_token(batch, 10 * SAMPLE)
    assert asked == list(range(0, 10 * SAMPLE, 10))
