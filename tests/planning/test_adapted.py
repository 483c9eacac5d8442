"""Memory and time of an adapter beside a frozen model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from modelwright.planning.activations import Batch
from modelwright.planning.adapted import Frozen
from modelwright.planning.duration import step_seconds
from modelwright.planning.machines import find_machine
from modelwright.planning.memory import Training, training_memory
from modelwright.planning.shape import known_shape
from modelwright.planning.sharding import Box

SHAPE = known_shape("llama-3.2-1b")
FULL = Training(batch=Batch(rows=1, context=512), kind="gpu", optimizer="adamw", averages=0)
LORA = replace(FULL, frozen=Frozen(rank=16))
QLORA = replace(FULL, frozen=Frozen(rank=16, weights="nf4"))


def test_nothing_but_the_adapter_has_gradients_and_state() -> None:
    memory, trained = training_memory(SHAPE, LORA), LORA.trained(SHAPE)
    assert trained == 11_272_192, "peft counts as many for rank 16 on all linear layers of this model"
    assert memory.gradients == 4 * trained and memory.optimizer == 8 * trained
    assert memory.weights == pytest.approx(2 * SHAPE.parameters + 4 * trained)
    assert training_memory(SHAPE, FULL).gradients == 4 * SHAPE.parameters


def test_qlora_holds_its_matrices_in_half_a_byte() -> None:
    full, lora, qlora = (training_memory(SHAPE, each) for each in (FULL, LORA, QLORA))
    assert full.total > 3 * lora.total
    saved = lora.weights - qlora.weights
    unpacked = 2 * SHAPE.hidden * SHAPE.feed_forward
    assert saved == pytest.approx((2 - 0.5 - 0.127 / 8) * SHAPE.block_matrices - unpacked)
    eight = training_memory(SHAPE, replace(FULL, frozen=Frozen(rank=16, weights="int8")))
    assert qlora.total < eight.total < lora.total


def test_processes_that_hold_a_model_together_hold_a_part_each() -> None:
    alone = replace(FULL, batch=Batch(rows=8, context=512))
    one, eight = training_memory(SHAPE, alone), training_memory(SHAPE, replace(alone, box=Box(shards=8)))
    assert (eight.weights, eight.optimizer) == (one.weights / 8, one.optimizer / 8)
    assert eight.total - eight.gathered < one.total / 4  # gathered blocks are whole on each
    assert eight.total < one.total / 3


def test_a_larger_rank_costs_more_and_every_step_less_than_a_full_one() -> None:
    wide = replace(FULL, frozen=Frozen(rank=256))
    assert training_memory(SHAPE, wide).total > training_memory(SHAPE, LORA).total
    machine = find_machine("H100")
    full, lora, more = (step_seconds(SHAPE, each, machine) for each in (FULL, LORA, wide))
    assert 0.4 * full < lora < more < full


@pytest.mark.parametrize("shards", [1, 8])
@pytest.mark.parametrize("weights", ["auto", "nf4", "int8"])
@pytest.mark.parametrize("width", [2, 4])
def test_no_part_is_negative_and_checkpointing_saves(weights: str, shards: int, width: int) -> None:
    """A frozen model has no casts of weights that could be taken off."""
    shape, totals = known_shape("qwen3-4b"), list[float]()
    for kind in ("none", "selective", "full"):
        batch = Batch(rows=8, context=512, bytes=width)
        held = Frozen(rank=16, weights=weights)
        memory = training_memory(
            shape, replace(FULL, batch=batch, frozen=held, box=Box(shards=shards), checkpointing=kind)
        )
        assert min(memory.parts.values()) >= 0
        totals.append(memory.total)
    assert totals == sorted(totals, reverse=True) and totals[0] > totals[2]
