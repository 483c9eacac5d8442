"""The measures of damage against plain definitions and known cases."""

from __future__ import annotations

import math

import pytest
import torch

from modelwright.evaluation import compare
from modelwright.evaluation.compare import Comparison, kl_divergence, quantile_interval, same_top


def test_kl_divergence_of_known_distributions() -> None:
    p, q = torch.tensor([0.5, 0.5]), torch.tensor([0.9, 0.1])
    expected = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    assert float(kl_divergence(p.log(), q.log())) == pytest.approx(expected, rel=1e-6)
    assert float(kl_divergence(p.log() + 3, p.log() - 40)) == pytest.approx(
        0, abs=1e-12
    )  # shifts mean nothing


def test_tiny_divergences_are_not_lost_to_rounding() -> None:
    logits = torch.randn(50, 100, generator=torch.Generator().manual_seed(0))
    noise = 1e-5 * torch.randn(50, 100, generator=torch.Generator().manual_seed(1))
    measured = kl_divergence(logits, logits + noise)
    p = logits.double().softmax(-1)
    wiggle = noise.double()
    expected = 0.5 * ((p * wiggle**2).sum(-1) - (p * wiggle).sum(-1) ** 2)  # second order: half a variance
    torch.testing.assert_close(measured, expected, rtol=0.2, atol=1e-13)


def test_a_nan_is_no_agreement() -> None:
    assert kl_divergence(torch.zeros(3), torch.tensor([0.0, float("nan"), 0.0])).isnan()
    assert not bool(same_top(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])))


def test_quantile_interval_holds_the_true_quantile_about_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(5)
    hits = sum(
        (interval := quantile_interval(torch.rand(400, generator=generator), 0.9)).low <= 0.9 <= interval.high
        for _ in range(200)
    )
    assert 0.9 <= hits / 200 <= 1.0
    assert quantile_interval(torch.arange(100.0), 0.99).mean == 98.0


def test_comparison_adds_up_over_sequences() -> None:
    generator = torch.Generator().manual_seed(2)
    comparison = Comparison()
    before = after = 0.0
    for _ in range(4):
        a, b = torch.randn(9, 20, generator=generator), torch.randn(9, 20, generator=generator)
        targets = torch.randint(0, 20, (9,), generator=generator)
        sizes = torch.tensor([0, *[3] * 6, 6, 6])  # the first target is no text
        comparison.add(a, b, targets, sizes)
        before += float(torch.nn.functional.cross_entropy(a[1:], targets[1:], reduction="sum"))
        after += float(torch.nn.functional.cross_entropy(b[1:], targets[1:], reduction="sum"))
    damage = comparison.result()
    assert damage.bits_per_byte_before == pytest.approx(before / 120 / math.log(2), rel=1e-5)
    assert damage.bits_per_byte_after == pytest.approx(after / 120 / math.log(2), rel=1e-5)
    change = damage.bits_per_byte_change
    assert change.mean == pytest.approx(damage.bits_per_byte_after - damage.bits_per_byte_before, abs=1e-9)
    assert change.low < change.mean < change.high
    assert (damage.mean_kl.n, damage.top1.n, damage.kl_99.n) == (4, 36, 36)


def test_a_copy_has_no_damage() -> None:
    comparison = Comparison()
    for seed in range(3):
        logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(seed))
        comparison.add(logits, logits, torch.arange(5), torch.ones(5, dtype=torch.int64))
    damage = comparison.result()
    assert damage.mean_kl.mean == 0 and damage.bits_per_byte_change.mean == 0
    assert damage.top1.mean == 1 and damage.top1.low < 1  # fifteen tokens prove little


@pytest.mark.parametrize("at_once", [1, 3 * 20, 7 * 20 + 5])
def test_a_wide_vocabulary_is_compared_some_positions_at_a_time(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many logits in fp64 as the bound says, one position at the least; all figures stay."""
    generator = torch.Generator().manual_seed(8)
    rows = [
        (*torch.randn(2, 11, 20, generator=generator), torch.randint(0, 20, (11,), generator=generator))
        for _ in range(3)
    ]
    sizes = torch.tensor([0, 0, 0, *[2] * 8])  # whole parts without text

    def damage() -> compare.Damage:
        comparison = Comparison()
        for before, after, targets in rows:
            comparison.add(before, after, targets, sizes)
        return comparison.result()

    whole = damage()
    seen: list[int] = []

    def watched(reference: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        seen.append(reference.numel())
        return kl_divergence(reference, other)

    monkeypatch.setattr(compare, "LOGITS_AT_ONCE", at_once)
    monkeypatch.setattr(compare, "kl_divergence", watched)
    parts = damage()
    assert max(seen) <= max(20, at_once) and sum(seen) == 3 * 11 * 20
    assert parts.top1 == whole.top1
    assert parts.mean_kl.mean == pytest.approx(whole.mean_kl.mean, rel=1e-12)
    assert parts.kl_99.high == pytest.approx(whole.kl_99.high, rel=1e-12)
    assert parts.bits_per_byte_before == pytest.approx(whole.bits_per_byte_before, rel=1e-12)
    assert parts.bits_per_byte_after == pytest.approx(whole.bits_per_byte_after, rel=1e-12)
