"""Memory of a training: state as the optimizer has it, sums by hand, and order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.model.config import ModelChoice
from modelwright.model.transformer import Transformer
from modelwright.planning.activations import Batch, loss_bytes, turning_bytes
from modelwright.planning.memory import (
    CPU_WARM,
    Training,
    optimizer_bytes,
    training_memory,
    update_bytes,
    with_rows,
)
from modelwright.planning.remedies import remedies
from modelwright.planning.shape import Shape, known_shape
from modelwright.training.optimizer import Optimizer, OptimizerConfig

SMALL = Shape(vocab=1000, hidden=64, feed_forward=192, layers=2, heads=4, kv_heads=2, head_dim=16, tied=True)
TRAINING = Training(batch=Batch(rows=4, context=128))


@pytest.mark.parametrize(("kind", "even"), [("adamw", False), ("muon", False), ("muon", True)])
def test_optimizer_state_is_counted_as_it_is(kind: Any, even: bool) -> None:
    config = ModelChoice(depth=2, hidden_size=64, head_dim=16).derive(200)
    model = Transformer(config)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer = Optimizer(model.named_parameters(), OptimizerConfig(kind=kind, even_neurons=even))
    optimizer.step(1.0)
    state = sum(
        tensor.nbytes for tensor in optimizer.state().values() if tensor.ndim
    )  # counters of steps aside
    assert optimizer_bytes(Shape.of(config), kind, even_neurons=even) == state


def test_muons_workspace_by_hand() -> None:
    group = 2 * SMALL.layers * 64 * 192  # gate and up
    assert update_bytes(SMALL, TRAINING) == pytest.approx(group * (4 + 2 + 6 + 4 * 64 / 192))
    assert update_bytes(SMALL, replace(TRAINING, optimizer="adamw")) == 0


def test_parts_add_up_to_the_total() -> None:
    memory = training_memory(SMALL, TRAINING)
    assert memory.total == pytest.approx(sum(memory.parts.values()))
    assert memory.weights == 4 * SMALL.parameters
    many = training_memory(SMALL, replace(TRAINING, averages=3))
    assert many.total - memory.total == pytest.approx(2 * 4 * SMALL.parameters)


def test_what_malloc_cannot_hand_out_again_by_hand() -> None:
    memory = training_memory(SMALL, TRAINING)
    turning = 2 * 4 * 128 * (3 * 192 + 3 * 64)
    assert turning == turning_bytes(SMALL, TRAINING.batch)
    lesser = 4 * SMALL.parameters + update_bytes(SMALL, TRAINING)
    highest = memory.activations + memory.loss
    assert memory.peak == "loss" and highest > lesser and memory.loss >= turning
    assert memory.overhead == pytest.approx(CPU_WARM + 0.2 * highest + 0.3 * lesser)
    assert training_memory(SMALL, replace(TRAINING, kind="gpu")).overhead < memory.overhead


def test_the_loss_holds_a_chunk_of_logits_and_never_all() -> None:
    shape = known_shape("llama-3.1-8b")
    small, large = (loss_bytes(shape, Batch(rows=rows, context=8192)) for rows in (1, 2))
    assert large - small == pytest.approx(8192 * shape.hidden * 2)  # hidden states alone


@pytest.mark.parametrize(("gib", "mib"), [(80, 512), (8, 128)])
def test_on_a_gpu_the_loss_holds_its_chunk_of_half_a_gib(gib: int, mib: int) -> None:
    """GPT-2 small, on cards of 80 and of 8 GiB: the chunk of kernels/cross_entropy.py, in bf16."""
    shape = Shape(
        vocab=50_304, hidden=768, feed_forward=2048, layers=12, heads=12, kv_heads=12, head_dim=64, tied=True
    )
    batch = Batch(rows=32, context=1024, compiled_kernels=False, gpu_memory=gib * 2.0**30)
    head = shape.embedding * (4 + 2 + 4)  # its gradient, it in bf16, and a product that is added
    logits = loss_bytes(shape, batch) - head - 32 * 1024 * shape.hidden * 2
    assert logits == pytest.approx(mib * 2**20, rel=0.001)


@given(
    st.integers(1, 32),
    st.integers(32, 2048),
    st.sampled_from(["cpu", "gpu"]),
    st.sampled_from(["adamw", "muon"]),
)
@settings(max_examples=60)
def test_more_rows_are_never_less_memory(rows: int, context: int, kind: str, optimizer: Any) -> None:
    one = replace(TRAINING, batch=Batch(rows=rows, context=context), kind=kind, optimizer=optimizer)
    more = replace(one, batch=Batch(rows=rows + 1, context=context))
    assert training_memory(SMALL, one).total <= training_memory(SMALL, more).total


@given(st.integers(1, 64), st.integers(1, 64))
def test_accumulation_makes_up_for_rows(rows: int, fewer: int) -> None:
    before = replace(TRAINING, batch=Batch(rows=rows, context=128))
    assert with_rows(before, min(rows, fewer)).step_tokens >= before.step_tokens


def test_remedies_go_down_until_it_fits() -> None:
    shape, limit = known_shape("qwen3-0.6b"), 20 * 2**30
    big = Training(batch=Batch(rows=64, context=2048, compiled_kernels=False), kind="gpu", optimizer="adamw")
    found = remedies(shape, big, limit)
    sizes = [remedy.total for remedy in found]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] <= limit
    assert all(size > limit for size in sizes[:-1])
    assert "micro-batch" in found[0].what
