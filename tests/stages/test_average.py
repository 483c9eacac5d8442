"""How a candidate is chosen, and what the log says of it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.training.tiny import make_model, make_windows

from modelwright.base.errors import DamagedFile
from modelwright.objectives.next_token import NextToken
from modelwright.stages.average import Config, choose, describe, place, view_of
from modelwright.stages.judging import Scores, by_objective
from modelwright.stages.views import ConversationView
from modelwright.training.batches import Example, Packed
from modelwright.training.loop import mean_loss


def test_a_candidate_is_told_in_words() -> None:
    row = {"candidate": "ema", "validation_bits_per_byte": 1.32701, "validation_loss": 0.4884, "chosen": True}
    assert describe(row) == "ema (chosen): validation bits per byte 1.3270, validation loss 0.4884"
    assert describe({**row, "chosen": False}).startswith("ema: ")


def scores(seed: int, shift: float = 0.0, units: int = 60) -> Scores:
    """Texts differ much from one another, and little between candidates."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(units, generator=generator).mul(0.05)
    sizes = torch.arange(units) % 7 + 3.0
    losses = sizes * (torch.arange(units) % 5 + 1.0 + noise + shift)
    return Scores(tuple(losses.tolist()), tuple(sizes.tolist()))


def test_a_clear_gain_is_taken_and_a_doubtful_one_is_not() -> None:
    last = scores(0)
    assert choose({"last": last, "ema": scores(1, -0.1)}, Config())[0] == "ema"
    swings = [size * (0.1 if place // 2 % 2 else -0.12) for place, size in enumerate(last.sizes)]
    doubtful = Scores(tuple(a + b for a, b in zip(last.losses, swings, strict=True)), last.sizes)
    name, test = choose({"last": last, "ema": doubtful}, Config())
    assert name == "last" and test["ema"].mean < 0 < test["ema"].high
    assert choose({"last": last, "ema": scores(1, 0.1)}, Config()) == ("last", {})


def test_a_margin_asks_for_more() -> None:
    both = {"last": scores(0), "ema": scores(1, -0.1)}
    assert choose(both, Config(margin=0.05))[0] == "ema"
    assert choose(both, Config(margin=0.2))[0] == "last"


def test_many_candidates_that_are_no_better_seldom_win() -> None:
    """The best of 20 by chance would pass a test on the same texts; on others it passes in about 1 of 40."""
    wins = 0
    for trial in range(100):
        found = {"last": scores(10_000 + trial)}
        found |= {f"no {n}": scores(100 * trial + n) for n in range(20)}
        wins += choose(found, Config())[0] != "last"
    assert wins <= 10


def test_few_texts_prove_nothing() -> None:
    both = {"last": scores(0, units=10), "ema": scores(1, -1.0, units=10)}
    assert choose(both, Config()) == ("last", {})


@given(st.lists(st.tuples(st.floats(0, 50), st.integers(1, 500)), min_size=2, max_size=30))
@settings(deadline=None, max_examples=50)
def test_contributions_average_to_the_value(rows) -> None:
    found = Scores(tuple(loss for loss, _ in rows), tuple(float(size) for _, size in rows))
    assert sum(found.contributions()) / len(rows) == pytest.approx(found.value, rel=1e-9, abs=1e-12)
    assert len(found.half(0).sizes) + len(found.half(1).sizes) == len(rows)


def test_units_add_up_to_what_training_measured() -> None:
    model = make_model()
    examples = [
        Example([1 + (n + k) % 39 for k in range(4 + n % 7)], [True] * (4 + n % 7)) for n in range(13)
    ]
    packed = Packed(examples, rows=4, length=16, seed=1, padding=0)
    judge = by_objective(model, NextToken(), packed, "rows")
    with torch.no_grad():
        assert judge.measure().value == pytest.approx(mean_loss(model, NextToken(), packed)["loss"], rel=1e-5)
    assert make_windows()[0].units == 2


def test_a_candidate_must_fit_the_model_and_have_the_names_of_the_first() -> None:
    model = make_model()
    weights = {name: torch.ones_like(p) for name, p in model.named_parameters()}
    place(model, frozenset(weights), weights)
    assert all((p == 1).all() for p in model.parameters())
    few = dict(list(weights.items())[1:])
    place(model, frozenset(few), few)  # a frozen weight is in none
    with pytest.raises(DamagedFile, match="1 are missing"):
        place(model, frozenset(weights), few)
    strange = {f"module.{name}": weight for name, weight in weights.items()}
    with pytest.raises(DamagedFile, match=r"none of its \['module\."):
        place(model, frozenset(strange), strange)


def test_settings_that_an_older_run_did_not_know_are_as_they_were_then() -> None:
    assert view_of(ConversationView, {"context": 99}).context == 99
