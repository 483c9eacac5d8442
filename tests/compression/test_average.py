"""Averaging is linear, exact where it can be, and refuses what has no average."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from modelwright.base.errors import UserError
from modelwright.compression.average import uniform

State = dict[str, Tensor]


def state(seed: int, dtype: torch.dtype = torch.float32) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(3, 4, generator=generator).to(dtype) for name in ("a", "b.c")}


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=6), st.floats(-8, 8))
@settings(deadline=None, max_examples=40)
def test_averaging_is_linear_and_does_not_mind_the_order(seeds: list[int], factor: float) -> None:
    states = [state(seed) for seed in seeds]
    mean = uniform(states)
    for name in mean:
        expected = torch.stack([s[name].double() for s in states]).mean(0).float()
        torch.testing.assert_close(mean[name], expected, atol=1e-7, rtol=1e-6)
        assert torch.equal(mean[name], uniform(states[::-1])[name])
    scaled = uniform([{name: t.double() * factor for name, t in s.items()} for s in states])
    for name in mean:
        torch.testing.assert_close(scaled[name], mean[name].double() * factor, atol=1e-5, rtol=1e-5)


def test_copies_average_to_themselves_bit_for_bit() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        one = state(3, dtype)
        mean = uniform([one] * 7)
        assert all(torch.equal(mean[name], one[name]) and mean[name].dtype == dtype for name in one)


def test_states_are_taken_one_at_a_time() -> None:
    taken: list[int] = []

    def states() -> Iterator[State]:
        for seed in range(3):
            taken.append(seed)
            yield state(seed)

    uniform(states())
    assert taken == [0, 1, 2]


def test_the_inputs_stay_as_they_are() -> None:
    first, second = state(1), state(2)
    uniform([first, second])
    assert torch.equal(first["a"], state(1)["a"])


def test_what_has_no_average_is_refused() -> None:
    with pytest.raises(UserError, match="nothing to average"):
        uniform([])
    with pytest.raises(UserError, match=r"'b\.c', which only one"):
        uniform([state(1), {"a": state(1)["a"]}])
    with pytest.raises(UserError, match="shape"):
        uniform([{"a": torch.zeros(2)}, {"a": torch.zeros(3)}])
    with pytest.raises(UserError, match="no average"):
        uniform([{"n": torch.tensor(1)}, {"n": torch.tensor(2)}])
