"""Known values: R's and the textbooks', not our own output read back."""

from __future__ import annotations

import math
import random

import pytest

from modelwright.evaluation.statistics import (
    holm,
    mcnemar,
    mean_interval,
    paired_difference,
    sign_flips,
    t_interval,
    t_quantile,
    wilson,
)


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (5, 2.5706), (9, 2.2622), (10, 2.2281),
     (29, 2.0452), (100, 1.9840), (200, 1.9719), (1000, 1.9623)],
)  # fmt: skip
def test_t_quantile_matches_the_printed_table(degrees: int, expected: float) -> None:
    assert t_quantile(0.975, degrees) == pytest.approx(expected, abs=5e-5)


def test_t_quantile_has_no_step_where_the_method_changes() -> None:
    assert t_quantile(0.975, 200) - t_quantile(0.975, 201) == pytest.approx(0.0000593, abs=2e-6)


def test_wilson_known_value() -> None:
    interval = wilson(8, 10)  # R: binom.confint(8, 10, methods="wilson")
    assert (interval.low, interval.high) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)


@pytest.mark.parametrize("share", [0, 1])
def test_a_perfect_score_is_not_certainty(share: int) -> None:
    interval = mean_interval([share] * 20)
    assert interval.mean == share
    assert interval.high - interval.low == pytest.approx(0.1611, abs=1e-3)
    assert 0 <= interval.low <= interval.high <= 1


def test_numbers_get_students_t() -> None:
    interval = mean_interval([2.0, 4.0, 6.0])  # mean 4, sd 2, t(2) = 4.3027
    assert interval.mean == 4.0
    assert interval.high - 4.0 == pytest.approx(4.3027 * 2 / math.sqrt(3), abs=1e-3)


def test_one_number_has_no_known_spread() -> None:
    assert mean_interval([3.5]).high == math.inf


def test_measurements_that_happen_to_be_ones_are_not_shares() -> None:
    assert t_interval([1, 1, 1]).high == t_interval([1, 1, 1]).low == 1.0
    assert mean_interval([1, 1, 1]).low < 0.5


def test_nothing_and_nonsense_are_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])
    with pytest.raises(ValueError, match="Confidence"):
        mean_interval([1], confidence=95)
    with pytest.raises(ValueError, match="equal"):
        paired_difference([1], [1, 0])


@pytest.mark.parametrize(
    ("gained", "lost", "expected"),
    [(0, 0, 1.0), (5, 0, 0.0625), (0, 5, 0.0625), (9, 1, 22 / 1024), (10, 10, 1.0)],
)
def test_mcnemar_is_the_exact_binomial(gained: int, lost: int, expected: float) -> None:
    assert mcnemar(gained, lost) == pytest.approx(expected)


def test_paired_right_and_wrong_counts_flips() -> None:
    before = [1] * 50 + [0] * 50
    after = [1] * 48 + [0] * 2 + [1] * 14 + [0] * 36
    found = paired_difference(before, after)
    assert (found.gained, found.lost, found.n, found.test) == (14, 2, 100, "exact McNemar")
    assert found.mean == pytest.approx(0.12)
    assert found.p_value == pytest.approx(2 * (1 + 16 + 120) / 2**16)
    assert 0 < found.low < 0.12 < found.high
    # Agresti and Min by hand: 12/102 +- 1.96 * sqrt(17 - 144/102) / 102
    assert found.high - found.low == pytest.approx(2 * 1.95996 * math.sqrt(17 - 144 / 102) / 102, abs=1e-5)


def test_equal_models_are_not_called_different() -> None:
    found = paired_difference([1, 0, 1, 1], [1, 0, 1, 1])
    assert (found.mean, found.p_value) == (0.0, 1.0)
    assert found.low < 0 < found.high


def test_swapping_the_models_negates_the_difference() -> None:
    left, right = [3.0, 4.0, 8.0, 1.0], [2.5, 4.5, 6.0, 0.5]
    forth, back = paired_difference(left, right), paired_difference(right, left)
    assert forth.mean == -back.mean
    assert forth.p_value == back.p_value
    assert forth.low == pytest.approx(-back.high)


def test_sign_flips_exact_by_hand() -> None:
    # |sum| >= 6 happens for +++ and --- alone: 2 of 8 patterns.
    assert sign_flips([1.0, 2.0, 3.0]) == pytest.approx(0.25)
    assert sign_flips([0.0, 0.0]) == 1.0


def test_sign_flips_sampled_agrees_with_exact_and_is_repeatable() -> None:
    dice = random.Random(3)
    differences = [dice.gauss(0.4, 1) for _ in range(14)]
    exact = sign_flips(differences)
    sampled = sign_flips([*differences, 1e-15, -1e-15])
    assert sampled == pytest.approx(exact, abs=0.02)
    assert sampled == sign_flips([*differences, 1e-15, -1e-15])
    assert sign_flips([1.0] * 60) == pytest.approx(1 / 20_001)


def test_holm_by_hand_and_in_the_given_order() -> None:
    assert holm({"a": 0.04, "b": 0.01, "c": 0.03}) == pytest.approx({"a": 0.06, "b": 0.03, "c": 0.06})
    assert list(holm({"z": 0.5, "a": 0.9})) == ["z", "a"]


def test_wilson_covers_the_truth_as_often_as_it_says() -> None:
    dice, hits = random.Random(11), 0
    for _ in range(600):
        interval = mean_interval([int(dice.random() < 0.9) for _ in range(40)])
        hits += interval.low <= 0.9 <= interval.high
    assert 0.92 <= hits / 600 <= 0.98
