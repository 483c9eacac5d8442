"""One call for all groups, and one call per group, beside the plain product with a mask."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.kernels import grouped

SIZES = st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(lambda sizes: sum(sizes) > 0)


def inputs(sizes: list[int], wide: int, out: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(len(sizes) + wide)
    rows = torch.randn(sum(sizes), wide, generator=generator, requires_grad=True)
    weights = torch.randn(len(sizes), out, wide, generator=generator, requires_grad=True)
    return rows, weights, torch.tensor(sizes)


@pytest.mark.parametrize("path", [grouped.grouped_linear, grouped.product_per_group])
@given(SIZES, st.sampled_from([1, 4, 7, 8]), st.sampled_from([4, 5, 12]))
@settings(max_examples=40, deadline=None)
def test_equals_the_plain_product(path, sizes: list[int], wide: int, out: int) -> None:
    rows, weights, counts = inputs(sizes, wide, out)
    ours, plain = path(rows, weights, counts), grouped.reference(rows, weights, counts)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)
    upstream = torch.randn(ours.shape, generator=torch.Generator().manual_seed(3))
    found = torch.autograd.grad(ours, (rows, weights), upstream)
    wanted = torch.autograd.grad(plain, (rows, weights), upstream)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_weights_are_cast_to_the_format_of_the_rows() -> None:
    rows, weights, counts = inputs([3, 0, 5], 16, 8)
    half = grouped.grouped_linear(rows.bfloat16(), weights, counts)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), grouped.reference(rows, weights, counts), rtol=0.05, atol=0.2)


@given(SIZES, st.sampled_from([4, 8, 16]))
@settings(max_examples=30, deadline=None)
def test_products_in_bf16_on_a_cpu_have_few_sizes_and_the_same_results(sizes: list[int], wide: int) -> None:
    rows, weights, counts = inputs([grouped.STEP + size for size in sizes], wide, 8)
    half, seen = rows.detach().bfloat16().requires_grad_(), list[list[int]]()
    with pytest.MonkeyPatch.context() as patch:
        multiply = grouped._multiply
        patch.setattr(grouped, "_multiply", lambda r, w, s: (seen.append(s.tolist()), multiply(r, w, s))[1])
        ours = grouped.grouped_linear(half, weights, counts)
    assert all(size % grouped.STEP == 0 for size in seen[0]) and len(seen) == 1
    plain = grouped.reference(half, weights, counts)
    torch.testing.assert_close(ours, plain, rtol=0.02, atol=0.02)
    upstream = torch.randn(ours.shape, generator=torch.Generator().manual_seed(3)).bfloat16()
    found = torch.autograd.grad(ours, (half, weights), upstream)
    wanted = torch.autograd.grad(plain, (half, weights), upstream)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=0.03, atol=0.06)


def test_without_a_grouped_product_each_group_has_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, weights, counts = inputs([2, 4], 8, 8)
    assert not grouped.has_grouped_product(rows.double(), weights.double())
    monkeypatch.delattr(torch.nn.functional, "grouped_mm", raising=False)
    assert not grouped.has_grouped_product(rows, weights)
    torch.testing.assert_close(
        grouped.grouped_linear(rows, weights, counts), grouped.reference(rows, weights, counts)
    )
