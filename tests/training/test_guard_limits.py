"""The guard's limits from the first step of a kind on: no healthy step is withheld, no spike is let through,
and no kind is shut out for good."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from modelwright.training.guard import Action, Guard, GuardConfig

OWN = {"sampled": 1.0}
"""What makes a step one of another kind."""


def step(loss: float, norm: float = 1.0, **more: float) -> dict[str, float]:
    return {"loss": loss, "grad_norm": norm, **more}


def withheld(guard: Guard, steps: list[dict[str, float]]) -> list[int]:
    return [number for number, values in enumerate(steps) if guard.judge(values).action is not Action.APPLY]


@given(
    seed=st.integers(0, 10_000),
    first=st.floats(0.7, 12),
    falls=st.floats(3, 300),
    noise=st.floats(0, 0.1),
    tail=st.floats(0, 0.45),
    rare=st.integers(2, 40),
    size=st.floats(0.05, 50),
)
@settings(deadline=None)
def test_healthy_steps_are_applied_from_the_first_on(
    seed: int, first: float, falls: float, noise: float, tail: float, rare: int, size: float
) -> None:
    """A loss that falls, norms with a heavy tail that are wild in the warm-up, and a rare kind of another
    size."""
    random = np.random.default_rng(seed)
    steps: list[dict[str, float]] = []
    for number in range(300):
        level = 0.2 * first + 0.8 * first * math.exp(-number / falls)
        wild = 1 + 4 * random.random() * math.exp(-number / 10)
        own = number % rare == rare - 1
        loss = level * (1 + noise * float(random.uniform(-1, 1))) * (size if own else 1)
        norm = wild * float(np.exp(tail * random.normal())) * (size if own else 1)
        steps.append(step(loss, norm, **(OWN if own else {})))
    assert withheld(Guard(GuardConfig()), steps) == []


@given(
    seen=st.integers(1, 100),
    others=st.integers(0, 60),
    loss=st.floats(0.5, 20),
    norm=st.floats(0.1, 20),
    watched=st.sampled_from(["loss", "grad_norm"]),
    times=st.floats(60, 1e9),
)
@settings(deadline=None)
def test_a_spike_is_withheld_whenever_it_comes(
    seen: int, others: int, loss: float, norm: float, watched: str, times: float
) -> None:
    """From the second step of its kind on, however many there were of others."""
    guard = Guard(GuardConfig())
    assert withheld(guard, [step(loss / 30, norm * 30) for _ in range(others)]) == []
    assert withheld(guard, [step(loss, norm, **OWN) for _ in range(seen)]) == []
    spike = step(loss, norm, **OWN)
    verdict = guard.judge(spike | {watched: spike[watched] * times})
    assert verdict.action is Action.SKIP and verdict.reason.startswith(f"{watched} ")


@given(
    before=st.floats(1e-6, 1e6),
    after=st.floats(1e-6, 1e6),
    seen=st.integers(1, 80),
    between=st.integers(1, 5),
    patience=st.integers(2, 4),
)
@settings(deadline=None)
def test_no_kind_is_shut_out_for_good(
    before: float, after: float, seen: int, between: int, patience: int
) -> None:
    """What a rare kind's steps measure changes for good, while those of the other stay: they never come to
    several in a row, and are learned from all the same."""
    guard = Guard(GuardConfig(patience=patience))
    applied: list[bool] = []
    for number in range(seen + 60):
        own = step(before if number < seen else after, 1.0, **OWN)
        applied.append(guard.judge(own).action is Action.APPLY)
        assert withheld(guard, [step(2.0)] * between) == []
    assert all(applied[-20:]) and applied.count(False) <= patience and guard.rollbacks == 0


def test_that_a_kind_has_changed_is_said() -> None:
    guard = Guard(GuardConfig())
    withheld(guard, [step(2.0), step(1.0, **OWN)] * 40)
    reasons = [guard.judge(step(30.0, **OWN)).reason for _ in range(3) if guard.judge(step(2.0))]
    assert [("taken as usual" in reason) for reason in reasons] == [False, False, True]
    assert all(reason.startswith("loss 30, usual 1, limit 1.4") for reason in reasons)
    assert guard.judge(step(30.0, **OWN)).action is Action.APPLY and guard.rollbacks == 0


def test_a_student_that_begins_as_its_teacher_is_left_to_learn() -> None:
    """Its divergence is next to nothing, and rises three hundredfold before it falls, as one did."""
    rows = [
        (0.0006, 0.25), (0.0036, 0.62), (0.005, 0.75), (0.0007, 0.16), (0.0159, 1.21), (0.003, 0.52),
        (0.01, 1.15), (0.0075, 0.48), (0.0028, 0.27), (0.0024, 0.31), (0.0038, 0.31), (0.0046, 0.4),
        (0.0087, 0.46), (0.0066, 0.46), (0.0031, 0.32), (0.0102, 0.65), (0.0161, 0.96), (0.0034, 0.33),
        (0.0069, 0.67), (0.0089, 0.66), (0.004, 0.37), (0.0534, 2.15), (0.0509, 2.07), (0.0608, 2.1),
        (0.0657, 2.31), (0.0812, 2.45), (0.0803, 2.38), (0.0749, 2.26),
    ]  # fmt: skip
    own = [(0.0, 0.0), (0.0001, 0.03), (0.0004, 0.04), (0.0005, 0.05), (0.0023, 0.13), (0.0105, 0.3)]
    guard = Guard(GuardConfig())
    assert withheld(guard, [step(*each) for each in rows]) == []
    assert withheld(guard, [step(*each, **OWN) for each in own]) == []
    assert withheld(guard, [step(0.0, 0.0, zero=0.0)] * 40 + [step(0.05, 0.05, zero=0.0)]) == []


def test_behind_a_rollback_there_are_limits_and_less_is_believed_each_time() -> None:
    guard = Guard(GuardConfig(max_rollbacks=9))
    withheld(guard, [step(2.0)] * 60)
    then = json.loads(json.dumps(guard.state()))
    limits: list[float] = []
    for _ in range(3):
        assert [guard.judge(step(1e9)).action for _ in range(3)][-1] is Action.ROLL_BACK
        guard.went_back(then)
        limits.append(guard.limit("loss"))
        if math.isinf(limits[-1]):
            break
    assert 2.8 < limits[0] < limits[1] < 10 and limits[2] == math.inf


def test_text_of_another_kind_behind_a_rollback_is_no_end() -> None:
    """A loss that jumped and stays is taken as the usual one before training would be given up."""
    guard = Guard(GuardConfig())
    withheld(guard, [step(1.0)] * 60)
    then, actions = guard.state(), list[Action]()
    for _ in range(30):
        actions.append(guard.judge(step(500.0, 900.0)).action)
        if actions[-1] is Action.ROLL_BACK:
            guard.went_back(then)
    assert Action.GIVE_UP not in actions and actions[-20:] == [Action.APPLY] * 20


def test_values_that_are_not_finite_teach_nothing() -> None:
    """Three of a rare kind are no other usual value."""
    guard = Guard(GuardConfig())
    withheld(guard, [step(2.0), step(1.0, **OWN)] * 40)
    for _ in range(5):
        assert guard.judge(step(math.nan, **OWN)).action is Action.SKIP
        assert guard.judge(step(2.0)).action is Action.APPLY
    assert guard.limit("loss", "sampled") == pytest.approx(1.4)


@given(
    st.lists(st.tuples(st.floats(), st.floats(min_value=0), st.booleans()), max_size=60),
    st.integers(min_value=0, max_value=60),
)
@settings(deadline=None)
def test_a_guard_of_two_kinds_taken_up_again_decides_the_same(
    values: list[tuple[float, float, bool]], cut: int
) -> None:
    config = GuardConfig(settled=4, window=8, patience=2, max_rollbacks=3)
    steps = [step(loss, norm, **(OWN if own else {})) for loss, norm, own in values]

    def decide(guard: Guard, values: dict[str, float]) -> tuple[Any, ...]:
        before, verdict = guard.state(), guard.judge(values)
        if verdict.action is Action.ROLL_BACK:
            guard.went_back(before)
        return verdict, json.dumps(guard.state())

    whole = Guard(config)
    expected = [decide(whole, each) for each in steps]
    first, second = Guard(config), Guard(config)
    found = [decide(first, each) for each in steps[:cut]]
    second.load_state(json.loads(json.dumps(first.state())))
    assert found + [decide(second, each) for each in steps[cut:]] == expected


def test_a_window_too_small_to_settle_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"settled \(64\) is more than the window keeps \(16\)"):
        GuardConfig(settled=64, window=16)
