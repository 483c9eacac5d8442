"""What the dial derives, and that what is set stays set."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelwright.training.dial import describe, settle
from modelwright.training.optimizer import OptimizerConfig


@given(
    kind=st.sampled_from(["adamw", "muon"]),
    scale=st.sampled_from(["spectral", "rms"]),
    width=st.integers(32, 16384),
    rate=st.none() | st.floats(1e-6, 1),
    matrix=st.none() | st.floats(1e-6, 1),
)
def test_what_is_set_stays_and_the_rest_falls_with_width(kind, scale, width, rate, matrix) -> None:
    asked = OptimizerConfig(kind=kind, scale=scale, learning_rate=rate, matrix_learning_rate=matrix)
    found, wider = settle(asked, width), settle(asked, 4 * width)
    assert settle(found, 3 * width) == found
    assert found.rate == (rate or found.learning_rate) and found.matrix_rate == (matrix or found.matrix_rate)
    if rate is None:
        assert found.rate / wider.rate == pytest.approx(4 if kind == "adamw" else 2)
    if matrix is None:
        assert found.matrix_rate / wider.matrix_rate == pytest.approx(2 if scale == "rms" else 1)


def test_the_anchor_and_the_words() -> None:
    asked = OptimizerConfig(matrix_learning_rate=0.05)
    found = settle(asked, 128)
    assert (found.rate, found.matrix_rate) == (0.012, 0.05)
    said = describe(asked, found, 128)
    rates = "learning rate 0.012 (derived from width 128), of matrices 0.05 (as set)"
    assert said == f"{rates}, NorMuon with momentum 0.9, weight decay 0.1"
    adamw = OptimizerConfig(kind="adamw")
    said = describe(adamw, settle(adamw, 256), 256)
    assert said == "learning rate 0.003 (derived from width 256), weight decay 0"


def test_the_variant_of_muon_is_derived_and_stays_where_it_is_set() -> None:
    found = settle(OptimizerConfig(), 128)
    assert found.even_neurons is True and (found.decay, found.matrix_momentum) == (0.1, 0.9)
    plain = settle(OptimizerConfig(even_neurons=False, weight_decay=0.0), 128)
    assert plain.even_neurons is False and plain.decay == 0
    assert ", Muon with momentum 0.9, weight decay 0" in describe(OptimizerConfig(), plain, 128)
    adamw = settle(OptimizerConfig(kind="adamw"), 128)
    assert not adamw.even_neurons and adamw.decay == 0
    untouched = OptimizerConfig()  # what finetune and align take
    assert not untouched.even_neurons and (untouched.decay, untouched.matrix_momentum) == (0, 0.95)
