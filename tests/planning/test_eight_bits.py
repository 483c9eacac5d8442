"""Training in 8 bits, on paper: what a step gains, and what it is said to rest on."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.planning.test_forecast import forecast

from modelwright.planning.activations import Batch
from modelwright.planning.duration import efficiency, step_seconds
from modelwright.planning.eight_bits import eight_bit_note, eight_bit_rate, seconds_saved
from modelwright.planning.machines import find_machine
from modelwright.planning.memory import Training
from modelwright.planning.shape import Shape, known_shape
from modelwright.planning.sharding import Box

H100 = find_machine("H100")
SHAPE = Shape(vocab=1000, hidden=256, feed_forward=768, layers=2, heads=4, kv_heads=2, head_dim=64, tied=True)
BF16 = Training(batch=Batch(rows=4, context=2048), accumulation=2, kind="gpu", optimizer="adamw")
FP8 = replace(BF16, fp8=True)


def test_what_is_saved_by_hand() -> None:
    weights = 2 * (256 * (256 + 128 + 128 + 256) + 3 * 256 * 768)
    sides = 2 * (2 * (256 + 256) + 2 * (256 + 128) + 3 * (256 + 768))
    tokens = 4 * 2048 * 2
    products = 3 * 2 * weights * tokens / 0.5 * (1 / 989e12 - 1 / 1979e12)
    moved = 7 * sides * tokens + 10 * weights * 2
    saved = products - moved / 3350e9
    assert seconds_saved(SHAPE, FP8, H100, 3.0, 0.5) == pytest.approx(saved)
    share = efficiency(H100, SHAPE.hidden, "bfloat16", 2048)
    spared = step_seconds(SHAPE, BF16, H100) - step_seconds(SHAPE, FP8, H100)
    assert spared == pytest.approx(seconds_saved(SHAPE, FP8, H100, 3.0, share))


def test_a_large_model_gains_less_than_the_sheet_says_and_a_narrow_one_loses() -> None:
    batch = Batch(rows=2, context=8192)
    large = known_shape("llama-3.1-8b")
    plain, eight = (step_seconds(large, replace(training, batch=batch), H100) for training in (BF16, FP8))
    assert 1.2 < plain / eight < 1.8
    narrow = replace(SHAPE, hidden=64, feed_forward=192, heads=2, kv_heads=2, head_dim=32)
    assert seconds_saved(narrow, FP8, H100, 3.0, 0.45) < 0


def test_where_nothing_is_in_8_bits_nothing_changes() -> None:
    for training, machine in (
        (BF16, H100),
        (FP8, find_machine("a100")),
        (replace(FP8, box=Box(tensor=2)), H100),
    ):
        assert eight_bit_rate(training, machine) == 0 == seconds_saved(SHAPE, training, machine, 3.0, 0.4)
    odd = replace(SHAPE, hidden=250, feed_forward=770, head_dim=63)
    assert seconds_saved(odd, FP8, H100, 3.0, 0.4) == 0


def test_experts_stay_in_bf16() -> None:
    mixture = replace(SHAPE, experts=4, active_experts=2, expert_width=512)
    attention = replace(SHAPE, feed_forward=1)  # a side of 1 is no multiple of 16
    assert seconds_saved(mixture, FP8, H100, 3.0, 0.4) == seconds_saved(attention, FP8, H100, 3.0, 0.4) != 0


def test_a_forecast_says_what_it_rests_on() -> None:
    assert eight_bit_note(BF16, H100) == ""
    assert "no rate in 8 bits is known of a100-80gb" in eight_bit_note(FP8, find_machine("a100"))
    made = forecast("pretrain.compute.fp8=true", on="H100")
    (said,) = next(station for station in made.stations if station.station == "pretrain").notes
    assert "the sheet's 1,979 TFLOP/s" in said and "nobody has measured it" in said
