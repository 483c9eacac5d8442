"""Averages put together afterwards against those kept all along."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from modelwright.compression.average import weighted
from modelwright.compression.post_hoc import coefficients, profile
from modelwright.training.averages import (
    Averages,
    AveragesConfig,
    average_from_state,
    names_in,
    power_exponent,
)


def walk(steps: int) -> list[torch.Tensor]:
    """Weights that wander, as they do in training: drift and noise."""
    generator = torch.Generator().manual_seed(4)
    return list(torch.randn(steps, 40, generator=generator).cumsum(0) / steps**0.5)


@pytest.mark.parametrize("width", [0.03, 0.05, 0.08, 0.15, 0.2])
def test_another_width_comes_out_of_a_few_snapshots(width: float) -> None:
    steps, pair = 400, (0.05, 0.1)
    parameter = nn.Parameter(torch.zeros(40))
    config = AveragesConfig(
        half_lives=(), powers=(*pair, width) if width not in pair else pair, every=1, snapshots=10
    )
    averages = Averages({"w": parameter}, config, steps)
    stored, states = [], []
    for step, weights in enumerate(walk(steps), 1):
        with torch.no_grad():
            parameter.copy_(weights)
        averages.update(step)
        if averages.is_snapshot(step):
            state = {key: tensor.clone() for key, tensor in averages.state(powers_only=True).items()}
            for name in (f"power {each:g}" for each in pair):
                assert name in names_in(state)
                stored.append((step, power_exponent(float(name.split()[1]))))
                states.append(average_from_state(state, name))
    shares, missed = coefficients(stored, (steps, power_exponent(width)))
    found, kept = weighted(states, shares.tolist())["w"], averages.all()[f"power {width:g}"]["w"]
    apart = float((found - kept).norm() / (kept - walk(steps)[-1]).norm())
    assert shares.sum() == pytest.approx(1)
    assert missed < (0.15 if width < 0.05 else 0.07)
    assert apart < 2 * max(missed, 0.01), "the weights are as close as the profiles are"


def test_what_was_stored_is_found_again() -> None:
    stored = [(t, power_exponent(w)) for t in (25, 50, 75, 100) for w in (0.05, 0.1)]
    for place, average in enumerate(stored[-2:], len(stored) - 2):
        shares, missed = coefficients(stored, average)
        assert missed < 1e-9
        assert shares == pytest.approx(np.eye(len(stored))[place], abs=1e-6)


def test_profiles_add_up_to_one_at_any_length() -> None:
    for updates in (7, 100, 30_000):
        edges = np.linspace(0, 30_000, 1001)
        assert profile(edges, updates, 6.9).sum() == pytest.approx(1)
