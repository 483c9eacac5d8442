"""What writing takes, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelwright.inference.cache import DEFAULT_BYTES
from modelwright.planning.machines import GIB, Machine
from modelwright.planning.shape import Shape
from modelwright.planning.writing import CACHE_BYTES, LAYER_START, TAKEN, Writing
from modelwright.stages.forecast_writing import OWN_SLOTS
from modelwright.stages.on_policy import SLOTS

SHAPE = Shape(vocab=1000, hidden=256, feed_forward=768, layers=2, heads=4, kv_heads=2, head_dim=64, tied=True)
MACHINE = Machine(
    name="here", kind="cpu", memory=8 * GIB, bandwidth=1e10, rates={"bfloat16": 1e11}, watts=20.0
)
TEN = Writing(answers=10, prompt=30, answer=20, slots=5)


def test_seconds_by_hand() -> None:
    token = 2 * SHAPE.matmul_weights / 1e11
    reading = 300 * token
    slow = TEN.seconds(SHAPE, MACHINE, "bfloat16", 1e9)
    assert slow == pytest.approx(reading + 40 * (0.1 + 5 * TAKEN[True])), "bound by its weights' bytes"
    quick = TEN.seconds(SHAPE, MACHINE, "bfloat16", 1.0)
    assert quick == pytest.approx(reading + 40 * (5 * token + 5 * TAKEN[True])), "bound by arithmetic"
    plain = replace(TEN, compiled=False).seconds(SHAPE, MACHINE, "bfloat16", 1e9)
    assert plain - slow == pytest.approx(40 * (5 * (TAKEN[False] - TAKEN[True]) + 2 * LAYER_START))


def test_tokens_arithmetic_and_cache_by_hand() -> None:
    assert (TEN.read, TEN.written) == (300, 200)
    assert TEN.flops(SHAPE) == 2 * SHAPE.matmul_weights * 500
    assert TEN.cache_bytes(SHAPE, 2) == 2 * 2 * 128 * 50 * 5 * 2
    assert replace(TEN, slots=10**9).cache_bytes(SHAPE, 2) == CACHE_BYTES


def test_what_is_known_of_the_engine_is_true() -> None:
    assert CACHE_BYTES == DEFAULT_BYTES and OWN_SLOTS == SLOTS


@given(st.integers(1, 10**5), st.integers(1, 10**4), st.integers(1, 512))
def test_more_takes_longer(answers: int, length: int, slots: int) -> None:
    made = Writing(answers=answers, prompt=10, answer=length, slots=slots)
    seconds = made.seconds(SHAPE, MACHINE, "bfloat16", 1e7)
    assert seconds > 0
    for more in (replace(made, answer=length + 1), replace(made, prompt=11), replace(made, compiled=False)):
        assert more.seconds(SHAPE, MACHINE, "bfloat16", 1e7) > seconds
    assert replace(made, answers=2 * answers).seconds(SHAPE, MACHINE, "bfloat16", 1e7) >= seconds
