"""The draw against a plain reference, by distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from modelwright.base.schema import Sampling
from modelwright.inference.sampling import Settings, choose, filtered, seed_of_copy, uniforms

DRAWS = 20_000


def reference(logits: list[float], s: Sampling) -> list[float]:
    """Temperature, top_k, top_p, min_p, one after the other, in plain Python."""
    weights = [math.exp((x - max(logits)) / s.temperature) for x in logits]
    order = sorted(range(len(weights)), key=lambda i: -weights[i])
    order = order[: s.top_k] if s.top_k else order
    total, mass, kept = sum(weights[i] for i in order), 0.0, []
    for i in order:
        if mass >= s.top_p * total:
            break
        kept.append(i)
        mass += weights[i]
    kept = [i for i in kept if weights[i] >= s.min_p * weights[order[0]]]
    total = sum(weights[i] for i in kept)
    return [weights[i] / total if i in kept else 0.0 for i in range(len(weights))]


CASES = [
    Sampling(temperature=1.0),
    Sampling(temperature=0.6),
    Sampling(temperature=2.5, top_k=4),
    Sampling(temperature=1.0, top_p=0.7),
    Sampling(temperature=1.2, min_p=0.2),
    Sampling(temperature=1.5, top_k=9, top_p=0.8, min_p=0.15),
    Sampling(temperature=1.0, top_k=1),
    Sampling(temperature=1.0, top_p=1e-6),
]


def logits_of(rows: int, vocab: int = 12) -> torch.Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(3)) * 2


@pytest.mark.parametrize("likely", [256, 5, 1])
def test_filters_equal_the_reference_in_one_mixed_batch(likely, monkeypatch):
    monkeypatch.setattr("modelwright.inference.sampling.LIKELY", likely)
    logits = logits_of(len(CASES))
    settings = Settings.of(CASES, [0] * len(CASES), 12, "cpu")
    for row, case in enumerate(CASES):
        expected = torch.tensor(reference(logits[row].tolist(), case))
        torch.testing.assert_close(filtered(logits, settings)[row], expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_draws_follow_the_distribution(case):
    """Chi-square over many seeds; the bound is about the 1 - 1e-6 quantile (Wilson-Hilferty)."""
    logits = logits_of(1)
    settings = Settings.of([case] * DRAWS, range(DRAWS), 12, "cpu")
    drawn = choose(logits.expand(DRAWS, -1), settings, [0] * DRAWS).ids
    counts = np.bincount(drawn, minlength=12)
    expected = np.array(reference(logits[0].tolist(), case)) * DRAWS
    possible = expected > 0
    assert counts[~possible].sum() == 0
    freedom = int(possible.sum()) - 1
    if freedom:
        chi_square = float(((counts - expected)[possible] ** 2 / expected[possible]).sum())
        bound = freedom * (1 - 2 / (9 * freedom) + 4.75 * math.sqrt(2 / (9 * freedom))) ** 3
        assert chi_square < bound


def test_a_stream_is_uniform_and_its_numbers_independent():
    seeds = np.full(DRAWS, 12345, dtype=np.uint64)
    numbers = uniforms(seeds, np.arange(DRAWS, dtype=np.uint64))
    counts = torch.histc(numbers, bins=50, min=0, max=1)
    assert float(((counts - DRAWS / 50) ** 2 / (DRAWS / 50)).sum()) < 110
    neighbours = uniforms(seeds + np.uint64(1), np.arange(DRAWS, dtype=np.uint64))
    for a, b in ((numbers[1:], numbers[:-1]), (numbers, neighbours)):
        assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < 0.04
    assert float(numbers.min()) >= 0 and float(numbers.max()) < 1


def test_greedy_rows_take_the_best_beside_sampled_ones():
    logits = logits_of(6)
    cases = [Sampling(temperature=0), Sampling(temperature=1.0)] * 3
    choice = choose(logits, Settings.of(cases, range(6), 12, "cpu"), [0] * 6)
    assert choice.ids[::2] == logits.argmax(-1).tolist()[::2]
    expected = logits.log_softmax(-1)[torch.arange(6), torch.tensor(choice.ids)]
    assert choice.logprobs == pytest.approx(expected.tolist(), abs=1e-6)


def test_tiny_temperatures_are_greedy():
    logits = logits_of(4)
    case = Sampling(temperature=1e-30)
    choice = choose(logits, Settings.of([case] * 4, range(4), 12, "cpu"), [0] * 4)
    assert choice.ids == logits.argmax(-1).tolist()


def test_negative_and_huge_seeds_are_seeds():
    for seed in (-1, 2**80):
        Settings.of([Sampling(temperature=1.0)], [seed], 12, "cpu")


def test_copies_have_seeds_of_their_own():
    assert seed_of_copy(5, 0) == 5
    assert len({seed_of_copy(5, copy) for copy in range(20)}) == 20
    assert seed_of_copy(5, 3) == seed_of_copy(5, 3)
    assert seed_of_copy(None, 0) != seed_of_copy(None, 0)
