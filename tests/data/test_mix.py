"""Mixing: shares are met all along the run, and nothing is repeated or left out without a word."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelwright.base.config import validate
from modelwright.base.errors import ConfigError
from modelwright.data.mix import Mix, interleave, plan

TOKENS = {"web/a": 10_000, "web/b": 30_000, "books": 20_000}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6).filter(lambda w: sum(w) > 0.01), st.integers(0, 400))
def test_shares_are_met_everywhere(weights: list[float], rows: int) -> None:
    shares = np.array(weights) / sum(weights)
    choice = interleave(np.array(weights), rows)
    assert len(choice) == rows
    done = np.cumsum(np.eye(len(shares))[choice], axis=0)
    wanted = np.outer(np.arange(1, rows + 1), shares)
    assert (np.abs(done - wanted) <= 2).all()


def test_sources_that_share_a_pattern_are_one_group() -> None:
    made = plan(Mix(weights={"web/*": 1, "books": 3}), TOKENS, rows=400, row_tokens=100)
    web, books = made.groups
    assert (web.sources, web.tokens, web.rows) == (("web/a", "web/b"), 40_000, 100)
    assert (books.rows, books.epochs) == (300, 1.5)
    assert set(made.choice[:4]) == {0, 1}


def test_temperature_evens_out() -> None:
    def shares(temperature: float) -> list[float]:
        made = plan(Mix(temperature=temperature, max_epochs=99.0), TOKENS, 6000, 100)
        return [round(group.rows / 6000, 2) for group in made.groups]

    assert shares(1.0) == [0.17, 0.5, 0.33]
    assert shares(100.0) == [0.33, 0.34, 0.33]
    assert shares(1.0) < shares(2.0) < shares(5.0)


def test_a_curriculum_changes_shares_on_the_way() -> None:
    schedule = [
        {"until": 0.75, "weights": {"web/*": 1, "books": 0}},
        {"until": 1.0, "weights": {"web/*": 1, "books": 1}},
    ]
    made = plan(validate(Mix, {"schedule": schedule}, "mix"), TOKENS, rows=400, row_tokens=100)
    assert (made.choice[:300] == 0).all() and made.choice[300:].mean() == 0.5


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"weights": {"books": 1}}, "source 'web/a' has no weight"),
        ({"weights": {"bocks": 1, "*": 1}}, "no source is called 'bocks'. Did you mean 'books'"),
        (
            {"weights": {"books": 9, "*": 1}},
            "'books' holds 20,000 tokens and would be read 18.00 times, at most 4",
        ),
        ({"weights": {"books": 1, "*": 0}, "max_epochs": {"books": 2.0}}, "read 20.00 times, at most 2 are"),
        ({"weights": {"books": -1}}, "must not be negative"),
        ({"schedule": [{"until": 0.5, "weights": {"*": 1}}]}, "must rise and end at 1.0"),
    ],
)
def test_what_would_be_lost_or_repeated_is_refused(settings: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        plan(validate(Mix, settings, "mix"), TOKENS, rows=4000, row_tokens=100)


def test_the_plan_is_a_function_of_its_inputs() -> None:
    mix = Mix(weights={"web/*": 0.123, "books": 0.877}, max_epochs=100.0)
    first, second = (plan(mix, TOKENS, 1000, 100) for _ in range(2))
    assert (first.choice == second.choice).all() and first.groups == second.groups
