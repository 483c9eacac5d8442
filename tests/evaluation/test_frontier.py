"""What is saved at equal accuracy: exact where nothing is uncertain, honest where something is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelwright.evaluation.frontier import Resampled, cost_of


def marks_of(share: float, seeds: int = 3, problems: int = 100) -> np.ndarray:
    """The same first problems right, for every seed."""
    row = (np.arange(problems) < round(share * problems)).astype(float)
    return np.tile(row, (seeds, 1))


def test_a_curve_is_read_between_its_points() -> None:
    assert cost_of([0.2, 0.6], [100, 400], 0.4) == pytest.approx(200)
    assert cost_of([0.5, 0.6], [100, 400], 0.4) == 100
    assert cost_of([0.2, 0.6], [100, 400], 0.7) == np.inf
    assert cost_of([0.2, 0.6], [0, 400], 0.4) == 400  # between nothing and something there is no middle


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=6),
    st.lists(st.floats(1, 1e6), min_size=6, max_size=6, unique=True),
    st.floats(0, 1),
)
def test_what_a_curve_comes_to_costs_no_more_than_its_point(
    accuracies: list[float], costs: list[float], target: float
) -> None:
    price = sorted(costs)[: len(accuracies)]
    paid = cost_of(accuracies, price, target)
    enough = [cost for accuracy, cost in zip(accuracies, price, strict=True) if accuracy >= target]
    assert paid == np.inf if not enough else price[0] <= paid <= min(enough) * (1 + 1e-9)


def test_against_itself_nothing_is_saved() -> None:
    marks = {10: marks_of(0.3), 20: marks_of(0.6)}
    costs = {10: 1.0, 20: 2.0}
    saving = Resampled(3, 100, 0.95).saving(marks, costs, marks, costs, 20)
    assert (saving.share, saving.low, saving.high, saving.reached, saving.bound) == (0, 0, 0, 1, False)


def test_a_way_that_needs_a_tenth_saves_nine_tenths() -> None:
    slow = {100: marks_of(0.3), 1000: marks_of(0.6)}
    quick = {10: marks_of(0.3), 100: marks_of(0.6)}
    costs = {amount: float(amount) for amount in (10, 100, 1000)}
    saving = Resampled(3, 100, 0.95).saving(quick, costs, slow, costs, 1000)
    assert saving.share == pytest.approx(0.9) and saving.low <= 0.9 <= saving.high and not saving.bound
    never = Resampled(3, 100, 0.95).saving({10: marks_of(0.1)}, costs, slow, costs, 1000)
    assert never.share == never.low == -np.inf and never.reached == 0
    there = Resampled(3, 100, 0.95).saving({100: marks_of(0.9)}, costs, slow, costs, 1000)
    assert there.bound and there.share == pytest.approx(0.9)


def test_intervals_cover_what_is_true() -> None:
    """Students of unequal luck on problems of unequal ease: the interval over both holds the true accuracy
    nearly as often as it says; one that took all marks for independent would hold it far less often."""
    random, held = np.random.default_rng(0), 0
    for trial in range(100):
        luck, ease = random.normal(0, 0.05, (8, 1)), random.normal(0, 0.2, (1, 60))
        marks = (random.random((8, 60)) < np.clip(0.5 + luck + ease, 0, 1)).astype(float)
        resampled = Resampled(8, 60, 0.95, seed=trial, draws=400)
        low, high = resampled.interval(resampled.accuracies(marks))
        held += low <= 0.5 <= high
    assert held >= 88


def test_what_is_paired_cancels() -> None:
    random = np.random.default_rng(1)
    before = (random.random((3, 200)) < 0.5).astype(float)
    after = np.maximum(before, random.random((3, 200)) < 0.1)
    mean, low, high = Resampled(3, 200, 0.95).difference(before, after)
    assert low <= mean <= high and low > 0 and high - low < 0.1


def test_one_seed_says_nothing_of_others() -> None:
    with pytest.raises(ValueError, match="at least 2 seeds"):
        Resampled(1, 10, 0.95)
