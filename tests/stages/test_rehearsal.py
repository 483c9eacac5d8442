"""A rehearsal trains for real, in a process of its own, and says what a station's process would hold."""

from __future__ import annotations

from dataclasses import replace

import pytest

from modelwright.base.errors import UserError
from modelwright.planning.activations import Batch
from modelwright.planning.adapted import Frozen
from modelwright.planning.memory import CPU_BASE, Training, state_bytes
from modelwright.planning.shape import Shape, known_shape
from modelwright.stages import pretrain, rehearsal
from modelwright.stages.forecast_rows import largest_padded, mean_padded

TRAINING = Training(batch=Batch(rows=2, context=64, bytes=4), dtype="float32", averages=1)


def test_steps_are_made_and_memory_is_what_they_added() -> None:
    config = pretrain.Config.model_validate({"model": {"depth": 1, "hidden_size": 256}})
    shape = Shape.of(config.model.derive(1000))
    found = rehearsal.in_a_process("tiny", config, shape, TRAINING)
    kept = 4 * shape.parameters * 2 + state_bytes(shape, TRAINING)
    assert 0 < found.step_seconds < 60
    assert CPU_BASE + kept < found.peak_memory < CPU_BASE + kept + 500 * 2**20


def test_what_it_does_not_do_it_does_not_stand_for() -> None:
    assert rehearsal.can_stand_for(TRAINING)
    assert not rehearsal.can_stand_for(replace(TRAINING, frozen=Frozen(rank=4, weights="bfloat16")))
    assert not rehearsal.can_stand_for(replace(TRAINING, checkpointing="full"))
    with pytest.raises(UserError, match="no network of ours"):
        rehearsal.architecture(known_shape("gpt2-small"))


def test_the_largest_micro_batch_may_not_be_that_of_the_longest_rows() -> None:
    lengths = [20, 30, 60, 64, 90, 100]  # four a micro-batch: 4 x 64, 2 x 128
    assert largest_padded(lengths, 4 / 6) == 64
    assert mean_padded(lengths, 4 / 6) == (4 * 64 + 2 * 128) / 6
    assert largest_padded(lengths, 2 / 6) == 128
