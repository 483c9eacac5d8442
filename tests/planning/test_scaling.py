"""Scaling laws: planted ones are found again, intervals hold as often as they say, too little is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.base.errors import UserError
from modelwright.planning.isoflop import isoflop
from modelwright.planning.scaling import HUBER, Law, Observation, fit, grid_of_starts
from modelwright.planning.scaling_intervals import bootstrap, seed_spread

SMALL = Law(E=1.2, A=30.0, B=300.0, alpha=0.3, beta=0.35)
CHINCHILLA = Law(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
SIZES, COSTS = (1.6e5, 5e5, 1e6, 2e6), (1e12, 2e12, 4e12, 8e12)


def ladder(law: Law, noise: float = 0.0, seed: int = 0, scale: float = 1.0) -> list[Observation]:
    """Every size at every cost, log loss off by normal noise."""
    random = np.random.default_rng(seed)
    places = [(n * scale, c / (6 * n) * scale) for n in SIZES for c in COSTS]
    return [Observation(n, d, law.loss(n, d) * math.exp(noise * random.standard_normal())) for n, d in places]


@settings(max_examples=15, deadline=None)
@given(
    st.floats(0.5, 3),
    st.floats(0.15, 0.7),
    st.floats(0.15, 0.7),
    st.floats(0.1, 2),
    st.floats(0.1, 2),
)
def test_a_planted_law_is_found_again(rest, alpha, beta, at_n, at_d):
    law = Law(rest, at_n * 7e5**alpha, at_d * 7e5**beta, alpha, beta)
    found = fit(ladder(law)).law
    for name in ("E", "A", "B", "alpha", "beta"):
        assert getattr(found, name) == pytest.approx(getattr(law, name), rel=1e-3)
    assert found.loss(1e7, 1e8) == pytest.approx(law.loss(1e7, 1e8), rel=1e-6)


def test_the_paper_s_scale_is_no_other_problem():
    found = fit(ladder(CHINCHILLA, scale=1e3)).law
    assert math.isclose(found.A, 406.4, rel_tol=1e-6) and found.beta == pytest.approx(0.28, rel=1e-6)
    size, tokens = CHINCHILLA.optimum(5.76e23)  # Gopher's budget; the published coefficients give 32B
    assert size == pytest.approx(3.2e10, rel=0.05) and 6 * size * tokens == pytest.approx(5.76e23)


def test_the_optimum_is_the_lowest_of_its_cost():
    size, tokens = SMALL.optimum(1e15)
    best = SMALL.loss(size, tokens)
    assert all(SMALL.loss(size * f, tokens / f) > best for f in (0.5, 0.9, 1.1, 2))
    assert SMALL.optimum(2e15)[0] / size == pytest.approx(2**SMALL.exponent)


def test_the_minimum_is_that_of_lbfgs():
    """The judge starts from the best of our starts, and may not get any lower."""
    runs = ladder(SMALL, noise=0.004, seed=3)
    ours = fit(runs)
    logs = torch.tensor(np.log([run.loss for run in runs]))
    n, d = torch.tensor(ours.design.n), torch.tensor(ours.design.d)

    def total(theta: torch.Tensor) -> torch.Tensor:
        a, b, e, alpha, beta = theta
        terms = torch.stack((a - alpha.exp() * n, b - beta.exp() * d, e.expand(len(n))))
        off = (terms.logsumexp(0) - logs).abs()
        return torch.where(off <= HUBER, off**2 / (2 * HUBER), off - HUBER / 2).sum()

    lowest = math.inf
    for start in (*grid_of_starts(float(logs.min()))[::27], ours.theta):
        theta = torch.tensor(start, requires_grad=True)
        judge = torch.optim.LBFGS([theta], max_iter=300, line_search_fn="strong_wolfe")

        def closure(theta: torch.Tensor = theta, judge: torch.optim.LBFGS = judge) -> torch.Tensor:
            judge.zero_grad()
            loss = total(theta)
            loss.backward()
            return loss

        judge.step(closure)  # pyright: ignore[reportArgumentType]
        lowest = min(lowest, float(total(theta).detach()))
    assert float(total(torch.tensor(ours.theta))) <= lowest * (1 + 1e-6)


def test_one_bad_run_does_not_bend_the_law():
    *runs, last = ladder(SMALL, noise=0.0005)
    bad = [*runs, Observation(last.parameters, last.tokens, last.loss * 1.2)]
    there = (4e6, 1e6)
    assert fit(bad).law.loss(*there) == pytest.approx(SMALL.loss(*there), rel=0.01)
    assert abs(fit(bad, delta=10.0).law.loss(*there) / SMALL.loss(*there) - 1) > 0.01, "squares do bend"


def test_forecasts_hold_as_often_as_they_say():
    """Of 24 intervals that hold with 0.9, 18 or more hold in 99 % of such tests."""
    report = [simulate(0.002, seed, replicates=60) for seed in range(24)]
    assert sum(forecast for forecast, _ in report) >= 18
    assert sum(alpha for _, alpha in report) >= 17


@pytest.mark.slow
def test_forecasts_hold_as_often_as_they_say_over_many_ladders():
    report = [simulate(0.004, seed, replicates=200) for seed in range(300)]
    assert 0.85 <= sum(forecast for forecast, _ in report) / 300 <= 0.95


def simulate(noise: float, seed: int, replicates: int) -> tuple[bool, bool]:
    """Whether the intervals of one ladder hold the next rung's loss, and alpha."""
    drawn = bootstrap(fit(ladder(SMALL, noise, seed)), seed, replicates)
    size, tokens = 4e6, 1.6e13 / 6 / 4e6
    came = SMALL.loss(size, tokens) * math.exp(noise * np.random.default_rng(seed + 1000).standard_normal())
    alpha = drawn.interval(lambda law: law.alpha)
    return drawn.forecast(size, tokens).holds(came), alpha.holds(SMALL.alpha)


def test_a_forecast_can_fail():
    """A law that bends beyond the ladder is not what was forecast."""
    drawn = bootstrap(fit(ladder(SMALL, 0.002)), 0, 60)
    interval = drawn.forecast(4e6, 7e5)
    assert interval.low < interval.value < interval.high
    assert not interval.holds(SMALL.loss(4e6, 7e5) * 1.1) and not interval.holds(SMALL.loss(4e6, 7e5) * 0.9)


def test_more_noise_widens_and_a_seed_repeats():
    def width(noise: float) -> float:
        interval = bootstrap(fit(ladder(SMALL, noise)), 0, 60).forecast(4e6, 7e5)
        return interval.high - interval.low

    assert width(0.01) > 3 * width(0.001)
    assert width(0.01) == width(0.01)


def test_too_few_runs_are_refused():
    runs = ladder(SMALL)
    with pytest.raises(UserError, match=r"7 runs of 2 sizes.*at least 8 runs of 3 sizes.*add rungs"):
        fit(runs[:7])
    with pytest.raises(UserError, match="8 runs of 2 sizes"):
        fit(runs[:8])
    with pytest.raises(UserError, match="16 runs of 4 sizes and 1 horizons"):
        fit([Observation(run.parameters, 1e6, run.loss) for run in runs])
    for loss in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(UserError, match="positive sizes, tokens and losses"):
            fit([*runs, Observation(1e6, 1e6, loss)])


def test_profiles_find_the_best_size_without_a_law():
    levels, sizes, losses = [], [], []
    for cost in (1e14, 2e14, 4e14):
        best = SMALL.optimum(cost)[0]
        for factor in (0.5, 1.0, 2.0):
            levels.append(cost)
            sizes.append(best * factor)
            losses.append(SMALL.loss(best * factor, cost / 6 / best / factor))
    found = isoflop(levels, sizes, losses)
    assert found.exponent == pytest.approx(SMALL.exponent, rel=0.05)
    assert found.profiles[0].best == pytest.approx(SMALL.optimum(1e14)[0], rel=0.1)
    falling = isoflop([1.0] * 3, [1.0, 2.0, 4.0], [3.0, 2.0, 1.0])
    assert falling.profiles[0].best is None and falling.exponent is None


def test_spread_between_seeds():
    assert seed_spread([[2.0], [3.0]]) is None
    assert seed_spread([[math.exp(0.1), math.exp(-0.1)], [1.0]]) == pytest.approx(0.1 * math.sqrt(2))
