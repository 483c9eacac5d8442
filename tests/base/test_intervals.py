from __future__ import annotations

import math
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelwright.base.intervals import wilson


def test_published_values() -> None:
    """Newcombe 1998, Statistics in Medicine 17, table I, method 3."""
    for successes, n, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        assert wilson(successes, n) == pytest.approx((low, high), abs=6e-5)


def test_of_nothing_nothing_is_known() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    for wrong in [(-1, 3), (4, 3), (1, 0)]:
        with pytest.raises(ValueError, match="trials succeeded"):
            wilson(*wrong)


@given(st.integers(1, 10_000), st.data())
def test_its_bounds_are_the_shares_that_a_score_test_just_accepts(n: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, n))
    bounds = wilson(successes, n, 0.9)
    z = NormalDist().inv_cdf(0.95)
    assert 0 <= bounds[0] <= successes / n <= bounds[1] <= 1
    for bound in bounds:
        if 0 < bound < 1:
            assert abs(successes / n - bound) == pytest.approx(
                z * math.sqrt(bound * (1 - bound) / n), rel=1e-6
            )
