"""Time, sharding: figures by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelwright.base.errors import ConfigError
from modelwright.planning.activations import Batch
from modelwright.planning.duration import (
    MUON_ITERATIONS,
    STEP_CONSTANT,
    Work,
    efficiency,
    forecast_duration,
    interpolate,
    muon_flops,
    step_seconds,
    update_seconds,
)
from modelwright.planning.machines import GIB, Machine, find_machine
from modelwright.planning.memory import Training, state_bytes
from modelwright.planning.shape import Shape, known_shape
from modelwright.planning.sharding import Box, choose_box, sharded

SHAPE = Shape(vocab=1000, hidden=256, feed_forward=768, layers=2, heads=4, kv_heads=2, head_dim=64, tied=True)
TRAINING = Training(batch=Batch(rows=4, context=128), optimizer="adamw")
MACHINE = Machine(
    name="here", kind="cpu", memory=8 * GIB, bandwidth=1e10, rates={"bfloat16": 1e11}, watts=20.0
)


def test_flops_of_a_token_by_hand() -> None:
    layer = 256 * (256 + 128 + 128 + 256) + 3 * 256 * 768
    assert SHAPE.forward_flops(128) == 2 * (2 * layer + 1000 * 256) + 4 * 2 * 256 * 128


def test_a_step_by_hand() -> None:
    arithmetic = 3 * SHAPE.forward_flops(128) * 512 / (1e11 * 0.65)  # what is assumed at this width
    # AdamW's two moments twice; weights twice; gradients thrice; the average twice, beside the weights
    moved = 4 * SHAPE.parameters * (2 * 2 + 2 + 3 + 3)
    assert step_seconds(SHAPE, TRAINING, MACHINE) == pytest.approx(arithmetic + moved / 1e10 + STEP_CONSTANT)


def test_what_small_trainings_reached_stands_in_for_an_assumption() -> None:
    rates = [(256, 256, 4e10), (256, 1024, 6e10), (512, 256, 8e10), (512, 1024, 8e10)]
    tried = replace(MACHINE, step_rates={"bfloat16": rates})
    assert efficiency(tried, 256, "bfloat16", 640) == pytest.approx(0.5)
    assert efficiency(tried, 384, "bfloat16", 64) == pytest.approx(0.6)
    assert efficiency(tried, 4096, "bfloat16", 4096) == pytest.approx(0.8)
    assert efficiency(tried, 512, "float32", 256) == efficiency(MACHINE, 512, "float32", 256)
    work = Work(steps=10)
    sources = [forecast_duration(SHAPE, TRAINING, work, machine).source for machine in (tried, MACHINE)]
    assert sources == ["trial", "assumption"]
    muon = replace(TRAINING, optimizer="muon")
    plain = 2 * state_bytes(SHAPE, muon) + 4 * SHAPE.parameters * 8
    iteration = muon_flops(SHAPE) / 4e10
    assert update_seconds(SHAPE, muon, tried) == pytest.approx(plain / 1e10 + iteration)


def test_attention_is_counted_as_its_kernel_looks_at_it() -> None:
    short = Batch(rows=2, context=4096, document=80.0)
    tiles = replace(short, tiled_attention=True)
    flex = replace(short, explicit_attention=False, flex_attention=True)
    looked = [each.looked_at(SHAPE) for each in (short, tiles, flex, replace(tiles, masked=False))]
    assert looked == [4096, 80 + 2 * 32, 80 + 2 * 128, 4096]
    assert replace(tiles, context=128).looked_at(SHAPE) == 128
    seconds = [step_seconds(SHAPE, Training(batch=each), MACHINE) for each in (short, tiles)]
    left_out = 3 * 4 * SHAPE.layers * SHAPE.q_size * (4096 - 144) * 8192
    assert seconds[0] - seconds[1] == pytest.approx(left_out / (1e11 * 0.65))


def test_no_logits_where_there_is_no_loss() -> None:
    half = step_seconds(SHAPE, replace(TRAINING, supervised=0.5), MACHINE)
    logits = 0.5 * 3 * 2 * SHAPE.vocab * SHAPE.hidden * 512
    assert step_seconds(SHAPE, TRAINING, MACHINE) - half == pytest.approx(logits / (1e11 * 0.65))


def test_muons_arithmetic_by_hand() -> None:
    shape = replace(SHAPE, layers=1, heads=4, kv_heads=4)
    square = 2 * 3 * 256**3
    wide = 2 * (2 * 256 * 256 * 768 + 256**3)
    assert muon_flops(shape) == MUON_ITERATIONS * (4 * square + 3 * wide)


def test_a_rehearsal_replaces_the_formula() -> None:
    work = Work(steps=100, measured_tokens=5120, checkpoints=0)
    found = forecast_duration(SHAPE, TRAINING, work, MACHINE, rehearsed=0.5)
    assert found.steps == 50 and found.measuring == pytest.approx(5120 / 512 * 0.5 / 3)
    assert found.source == "rehearsal"


def test_shorter_rows_make_arithmetic_shorter_and_updates_not() -> None:
    update = update_seconds(SHAPE, TRAINING, MACHINE)
    found = forecast_duration(SHAPE, TRAINING, Work(steps=10, share=0.5), MACHINE)
    step = step_seconds(SHAPE, TRAINING, MACHINE)
    assert found.steps == pytest.approx(10 * (0.5 * (step - update) + update))


def test_reading_is_part_of_the_start() -> None:
    plain, read = (
        forecast_duration(SHAPE, TRAINING, Work(steps=10, reading=seconds), MACHINE) for seconds in (0.0, 2.5)
    )
    assert read.total == pytest.approx(plain.total + 2.5)


@given(st.integers(1, 5000))
def test_interpolation_stays_between_its_neighbours(width: int) -> None:
    assert 0.1 <= interpolate(((100, 0.1), (1000, 0.4)), width) <= 0.4
    assert interpolate(((100, 0.1), (1000, 0.4)), 550) == pytest.approx(0.25)


def test_fsdp_by_hand() -> None:
    shape, machine = known_shape("8b"), find_machine("h100")
    one = sharded(shape, Box(shards=8), machine, rows=1, chunked_loss=True)
    assert one.state == 16 * shape.parameters / 8
    assert one.sent_shards == pytest.approx(8 * shape.parameters * 7 / 8)
    assert one.sent_replicas == one.sent_tensor == one.logits == 0
    both = sharded(shape, Box(replicas=4, shards=8, tensor=2), machine)
    assert both.sent_replicas == pytest.approx(8 * shape.parameters / 16 * 3 / 4)
    assert both.sent_tensor == pytest.approx(4 * 32 * 2 * 8192 * 4096 * 2 * 0.5)


@given(st.sampled_from([8, 16, 64, 128, 1024]), st.integers(1, 4))
def test_more_devices_hold_no_more_each(devices: int, rows: int) -> None:
    shape, machine = known_shape("8b"), find_machine("h100")
    one, more = (sharded(shape, choose_box(n, "fsdp"), machine, rows=rows) for n in (devices, 2 * devices))
    assert more.memory < one.memory and more.sent_shards > one.sent_shards


def test_boxes() -> None:
    assert choose_box(64, "hsdp") == Box(replicas=8, shards=8)
    assert choose_box(64, "fsdp", tensor=8) == Box(shards=8, tensor=8)
    assert choose_box(4, "none") == Box(replicas=4)
    for devices, how, tensor in ((8, "zero", 1), (8, "fsdp", 3), (0, "fsdp", 1), (12, "hsdp", 1)):
        with pytest.raises(ConfigError):
            choose_box(devices, how, tensor)
