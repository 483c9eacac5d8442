"""Running averages against their definitions, by sums over all that was seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.training.tiny import make_model, make_windows, train_in
from torch import nn

from modelwright.objectives.next_token import NextToken
from modelwright.training.averages import (
    Averages,
    AveragesConfig,
    average_from_state,
    names_in,
    power_exponent,
)
from modelwright.training.checkpoint import Checkpoints
from modelwright.training.loop import SNAPSHOTS, LoopConfig

EVERYTHING = AveragesConfig(half_lives=(0.1, 0.5), tails=(0.25,), powers=(0.05, 0.2), snapshots=4, every=1)


def averaged(values: list[float], config: AveragesConfig) -> Averages:
    """Averages over a parameter that takes these values, one a step."""
    parameter = nn.Parameter(torch.zeros(2, 3))
    averages = Averages({"w": parameter}, config, len(values))
    for step, value in enumerate(values, 1):
        with torch.no_grad():
            parameter.fill_(value)
        averages.update(step)
    return averages


@given(st.lists(st.floats(-10, 10, width=32), min_size=8, max_size=40))
@settings(deadline=None, max_examples=30)
def test_each_average_is_the_weighted_sum_it_is_said_to_be(values: list[float]) -> None:
    found = {name: float(mean["w"][0, 0]) for name, mean in averaged(values, EVERYTHING).all().items()}
    n, seen = len(values), np.array(values, dtype=np.float64)
    steps = np.arange(1, n + 1)
    for share in EVERYTHING.half_lives:
        weights = 0.5 ** ((n - steps) / max(1.0, share * n))
        assert found[f"ema {share:g}"] == pytest.approx(weights @ seen / weights.sum(), rel=1e-4, abs=1e-4)
    assert found["tail 0.25"] == pytest.approx(seen[n - round(0.25 * n) :].mean(), rel=1e-4, abs=1e-4)
    for width in EVERYTHING.powers:
        power = power_exponent(width) + 1
        weights = (steps / n) ** power - ((steps - 1) / n) ** power
        assert weights.sum() == pytest.approx(1)
        assert found[f"power {width:g}"] == pytest.approx(weights @ seen, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("width", [0.02, 0.05, 0.1, 0.25])
def test_a_power_profile_has_the_width_that_names_it(width: float) -> None:
    power = power_exponent(width)
    ages = (np.arange(1_000_000) + 0.5) / 1_000_000
    density = ages**power / (ages**power).sum()
    mean = density @ ages
    assert np.sqrt(density @ (ages - mean) ** 2) == pytest.approx(width, rel=1e-3)


def test_the_paper_names_these_exponents() -> None:
    assert power_exponent(0.05) == pytest.approx(16.97, abs=0.01)
    assert power_exponent(0.10) == pytest.approx(6.94, abs=0.01)


def test_a_spacing_keeps_the_half_life_and_ends_with_the_last_weights() -> None:
    """Weights that move along a line: an average that lags by its half-life lags by it at any spacing."""
    values = [float(step) for step in range(1, 401)]
    lags = [
        400
        - float(averaged(values, AveragesConfig(half_lives=(0.1,), every=every)).all()["ema 0.1"]["w"][0, 0])
        for every in (1, 3, 8)
    ]
    exact = 1 / (1 - 0.5 ** (1 / 40)) - 1
    assert lags[0] == pytest.approx(exact, rel=0.02)
    assert max(lags) - min(lags) < 4, "half a spacing at most"
    ends = averaged([0.0] * 399 + [1.0], AveragesConfig(half_lives=(0.001,), every=8)).all()
    assert float(ends["ema 0.001"]["w"][0, 0]) > 0.9


def test_long_runs_are_updated_less_often() -> None:
    config = AveragesConfig(half_lives=(0.03, 0.1))
    assert config.spacing(1000) == 1
    assert config.spacing(10_000) == 9
    assert config.model_copy(update={"every": 5}).spacing(10_000) == 5


def test_a_state_is_taken_over_whole() -> None:
    first = averaged([1.0, 5.0, 2.0, 4.0], EVERYTHING)
    second = averaged([0.0] * 4, EVERYTHING)
    second.load_state(first.state())
    assert set(names_in(first.state())) == set(first.all())
    for name, means in first.all().items():
        assert torch.equal(second.all()[name]["w"], means["w"])
        assert torch.equal(average_from_state(first.state(), name)["w"], means["w"])


def test_what_has_not_begun_is_no_average() -> None:
    parameter = nn.Parameter(torch.ones(2))
    averages = Averages({"w": parameter}, AveragesConfig(half_lives=(), tails=(0.25,)), 8)
    averages.update(1)
    assert averages.all() == {}
    assert average_from_state(averages.state(), "tail 0.25") == {}


def test_no_averages_are_no_burden(tmp_path) -> None:
    config = LoopConfig(averages=AveragesConfig(half_lives=()))
    assert train_in(tmp_path, make_model(), NextToken(), make_windows(), 3, config).averages == {}


def test_a_run_leaves_the_snapshots_that_were_asked_for(tmp_path) -> None:
    config = LoopConfig(averages=EVERYTHING, keep_checkpoints=1, checkpoint_every=2)
    trained = train_in(tmp_path, make_model(), NextToken(), make_windows(), 8, config)
    kept = Checkpoints(tmp_path / SNAPSHOTS / "checkpoints", keep=9).all()
    assert [snapshot.step for snapshot in kept] == [2, 4, 6, 8]
    last = kept[-1].tensors("averages")
    assert names_in(last) == ["power 0.05", "power 0.2"]
    for name in names_in(last):
        for parameter, mean in average_from_state(last, name).items():
            assert torch.equal(mean, trained.averages[name][parameter])


@pytest.mark.parametrize("wrong", [{"half_lives": (0,)}, {"tails": (1.5,)}, {"powers": (0.5,)}])
def test_fractions_and_widths_have_limits(wrong) -> None:
    with pytest.raises(ValidationError):
        AveragesConfig(**wrong)


def test_snapshots_of_a_part_that_was_given_up_are_removed(tmp_path) -> None:
    snapshots = Checkpoints(tmp_path, keep=99)
    for step in (2, 4, 6):
        snapshots.save(step, {"averages": {"w": torch.ones(2)}}, {})
    snapshots.remove_after(4)
    assert [snapshot.step for snapshot in snapshots.all()] == [2, 4]
