"""Averaging is linear, exact where it can be, and refuses what has no average."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from modelwright.base.errors import UserError
from modelwright.compression.average import greedy_soup, uniform, weighted

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


def test_weights_add_up_as_they_are_given() -> None:
    found = weighted(iter([state(1), state(2)]), (1.5, -0.5))
    expected = 1.5 * state(1)["a"].double() - 0.5 * state(2)["a"].double()
    assert torch.equal(found["a"], expected.float())


def scalar(value: float) -> State:
    return {"w": torch.tensor([value])}


def test_a_soup_takes_what_helps_and_leaves_what_does_not() -> None:
    """The best point is 0: ingredients on both sides of it help one another, one far away does not."""
    states = {"near": 0.1, "far": 5.0, "across": -0.2, "side": 0.11}
    ranked = sorted(states, key=lambda name: abs(states[name]))
    chosen, soup = greedy_soup(
        ranked, lambda name: scalar(states[name]), lambda weights: abs(float(weights["w"]))
    )
    assert chosen == ["near", "across"]
    assert float(soup["w"]) == pytest.approx(-0.05)


@given(st.lists(st.floats(-4, 4, width=16), min_size=1, max_size=6))
@settings(deadline=None, max_examples=40)
def test_a_soup_is_never_worse_than_its_best_ingredient(values: list[float]) -> None:
    states = {str(place): scalar(value) for place, value in enumerate(values)}

    def score(weights) -> float:
        return float((weights["w"] - 1).abs())

    ranked = sorted(states, key=lambda name: score(states[name]))
    chosen, soup = greedy_soup(ranked, states.__getitem__, score)
    assert score(soup) <= score(states[ranked[0]]) and chosen[0] == ranked[0]
    mean = torch.stack([states[name]["w"].double() for name in chosen]).mean(0)
    torch.testing.assert_close(soup["w"], mean.float(), rtol=1e-5, atol=1e-6)
