"""What guesses cost is measured, and followed."""

from __future__ import annotations

import random

import pytest

from modelwright.base.schema import Sampling
from modelwright.inference import speculate
from modelwright.inference.pace import ROW, Pace
from modelwright.inference.scheduler import Chunk, Sequence
from modelwright.inference.speculate import NGram, Speculation, Speculator


@pytest.mark.parametrize("jump", [0.0, 0.2])
def test_the_cost_of_a_guess_is_found(jump):
    """For each number of requests by itself, with what the first guess adds shared by all of a step."""
    pace, draw = Pace(), random.Random(1)
    assert pace.cost(1) == ROW and pace.cost(4) == 4 * ROW and pace.compares(1)
    for _ in range(400):
        requests, guesses = draw.choice((1, 4)), draw.choice((0, 4))
        seconds = 0.01 * requests * (1 + bool(guesses) * jump + 0.03 * guesses)
        pace.saw(requests, guesses, seconds * draw.uniform(0.98, 1.02))
    for requests in (1, 4):
        assert pace.cost(requests) == pytest.approx(requests * (0.03 + jump / 4), rel=0.25)
        assert not pace.compares(requests)
    assert pace.cost(2) == 2 * ROW


def test_a_step_without_guesses_comes_now_and_then():
    pace = Pace()
    for _ in range(4):
        assert pace.compares(2)
        pace.saw(2, 0, 1.0)
    count = 0
    while not pace.compares(2):
        pace.saw(2, 3, 1.1)
        count += 1
    assert count == 64
    pace.saw(2, 0, 1.0)
    assert not pace.compares(2)


def share_of_steps_with_guesses(row: float, right: float, monkeypatch, guess: float = 0.0) -> float:
    """In a circle of two tokens, of which the look-up guesses the share `right`; a step takes 1 + `row` for
    each further row, and a guess `guess` by itself."""
    clock = [0.0]
    monkeypatch.setattr(speculate.time, "perf_counter", lambda: clock[0])
    draw = random.Random(2)
    proposer = NGram(3)
    propose = proposer.propose

    def slow(wanted):
        found = propose(wanted)
        clock[0] += guess * sum(map(len, found.values()))
        return found

    monkeypatch.setattr(proposer, "propose", slow)
    speculator = Speculator(Speculation(), proposer)
    sequence = Sequence(0, (1, 2) * 20, Sampling(), 0, frozenset(), 100_000)
    sequence.accept(1, 0.0)
    guessed = 0
    for step in range(2000):
        sequence.computed = sequence.length - 1
        guesses = tuple(speculator.guesses([sequence]).get(sequence, ()))
        chunk = Chunk(sequence, sequence.computed, 1, guesses)
        speculator.timed([chunk], 1 + row * len(guesses))
        if guesses:
            hits = next((n for n in range(len(guesses)) if draw.random() > right), len(guesses))
            speculator.learn(sequence, len(guesses), hits)
            guessed += step >= 200
        sequence.accept(2 - len(sequence.ids) % 2, 0.0)
    return guessed / 1800


def test_guesses_come_where_they_pay_by_the_clock(monkeypatch):
    assert share_of_steps_with_guesses(0.02, 0.5, monkeypatch) > 0.9
    assert share_of_steps_with_guesses(0.5, 0.9, monkeypatch) > 0.9
    assert share_of_steps_with_guesses(0.5, 0.1, monkeypatch) < 0.03
    assert share_of_steps_with_guesses(0.02, 0.0, monkeypatch) < 0.5  # at 0.02 each
    assert share_of_steps_with_guesses(1.2, 0.95, monkeypatch) < 0.05
    assert share_of_steps_with_guesses(0.02, 0.9, monkeypatch, guess=1.1) < 0.05
