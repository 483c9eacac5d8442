"""Schedules: bounds, shapes, and how they go with a ramp of the batch."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelwright.training.schedule import ScheduleConfig, make_schedule
from modelwright.training.step_plan import BatchRampConfig, StepPlan

KINDS = ("wsd", "cosine", "linear", "inverse_sqrt", "constant")
configs = st.builds(
    ScheduleConfig,
    kind=st.sampled_from(KINDS),
    warmup_fraction=st.floats(0, 1),
    decay_fraction=st.floats(0, 1),
    shape=st.sampled_from(("linear", "sqrt", "cosine")),
    final=st.floats(0, 1),
)


@given(config=configs, steps=st.integers(1, 400))
def test_a_factor_rises_then_falls_and_stays_within_bounds(config: ScheduleConfig, steps: int) -> None:
    factor = make_schedule(config, steps)
    values = [factor(step) for step in range(steps)]
    assert all(0 <= value <= 1 for value in values) and values[0] > 0
    warmup = min(steps, max(1, round(config.warmup_fraction * steps)))
    assert values[: warmup - 1] == sorted(values[: warmup - 1])
    after = values[warmup:]
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(after))


@given(kind=st.sampled_from(KINDS), steps=st.integers(20, 300))
def test_where_it_ends(kind: Any, steps: int) -> None:
    last = make_schedule(ScheduleConfig(kind=kind, warmup_fraction=0.1, final=0.25), steps)(steps - 1)
    if kind == "constant":
        assert last == 1
    elif kind == "inverse_sqrt":
        assert 0.25 * math.sqrt(0.08) < last < 0.5
    else:
        assert 0.25 < last < 0.25 + 0.75 / (0.35 * steps)


def test_shapes_at_known_points() -> None:
    def at(step: int, **changes: Any) -> float:
        return make_schedule(ScheduleConfig(warmup_fraction=0.1, decay_fraction=0.5, **changes), 100)(step)

    assert at(75) == pytest.approx(0.5)
    assert at(75, shape="sqrt") == pytest.approx(1 - math.sqrt(0.5))
    assert at(75, shape="cosine") == pytest.approx(0.5)
    assert at(55, kind="linear") == pytest.approx(0.5)
    assert at(55, kind="cosine") == pytest.approx(0.5)
    assert at(39, kind="inverse_sqrt") == pytest.approx(0.5)
    assert at(99, kind="constant") == 1.0


def test_a_schedule_counts_steps_also_where_the_first_ones_are_smaller() -> None:
    """A ramp makes more steps of the same data. The rate goes by the step, not by the size of its batch."""
    ramped, plain = StepPlan(400, 8, BatchRampConfig(start=0.125, fraction=0.2)), StepPlan(400, 8)
    assert ramped.steps > plain.steps == 50
    factor = make_schedule(ScheduleConfig(), ramped.steps)
    assert factor(ramped.steps - 1) == pytest.approx(1 / round(0.4 * ramped.steps))
    assert len(ramped.of_step(0)) == 1 and factor(round(0.02 * ramped.steps)) == 1.0
