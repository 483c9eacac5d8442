"""Products that keep the fp32 weight, beside the plain ones that keep its cast copy."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from modelwright.kernels import linear
from modelwright.model.layers import Linear


@given(
    st.integers(1, 3),
    st.integers(1, 40),
    st.integers(1, 70),
    st.integers(1, 70),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_recast_is_the_plain_product_to_the_bit(
    rows: int, length: int, size_in: int, size_out: int, biased: bool, x_learns: bool
) -> None:
    torch.manual_seed(rows + length * size_in)
    x = torch.randn(rows, length, size_in).bfloat16().requires_grad_(x_learns)
    weight = nn.Parameter(torch.randn(size_out, size_in))
    bias = nn.Parameter(torch.randn(size_out)) if biased else None
    learn = [each for each in (x, weight, bias) if each is not None and each.requires_grad]
    slope = torch.randn(rows, length, size_out).bfloat16()

    def both(product: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        y = product(x, weight, None if bias is None else bias.bfloat16())
        return y, *torch.autograd.grad(y, learn, slope)

    for ours, plain in zip(both(linear.recast), both(linear.reference), strict=True):
        assert ours.dtype == plain.dtype and torch.equal(ours, plain)


def kept(weight: Tensor, forward: Callable[[], Tensor]) -> int:
    """Bytes that autograd keeps of a forward pass, the weight itself left out."""
    found: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage  # held, so that no address comes twice
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        assert forward().requires_grad
    own = weight.untyped_storage().data_ptr()
    return sum(storage.nbytes() for address, storage in found.items() if address != own)


@pytest.mark.parametrize("biased", [False, True])
def test_a_layer_keeps_no_copy_of_its_weight(biased: bool) -> None:
    layer, x = Linear(64, 96, bias=biased), torch.randn(2, 5, 64).bfloat16().requires_grad_()
    bias = None if layer.bias is None else layer.bias.bfloat16()
    assert kept(layer.weight, lambda: layer(x)) == x.nbytes
    assert kept(layer.weight, lambda: linear.reference(x, layer.weight, bias)) == x.nbytes + 2 * 64 * 96


def test_gradients_add_up_over_micro_batches_and_a_changed_weight_is_noticed() -> None:
    torch.manual_seed(0)
    layer, parts = Linear(16, 8, bias=False), torch.randn(2, 4, 16).bfloat16()
    for part in parts:
        layer(part).float().square().sum().backward()
    total = layer.weight.grad
    plain = [linear.reference(part, layer.weight).float().square().sum() for part in parts]
    expected = sum(torch.autograd.grad(loss, layer.weight)[0] for loss in plain)
    assert total is not None
    torch.testing.assert_close(total, expected, rtol=2e-2, atol=2e-2)
    late = layer(parts[0]).sum()
    with torch.no_grad():
        layer.weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        late.backward()


def test_what_needs_no_cast_or_is_watched_takes_the_plain_path() -> None:
    x, weight = torch.randn(4, 16).bfloat16(), nn.Parameter(torch.randn(8, 16))
    assert linear.recasts(x, weight)
    assert not linear.recasts(x.float(), weight) and not linear.recasts(x, weight.bfloat16())
    with torch.no_grad():
        assert not linear.recasts(x, weight)
    assert not linear.recasts(x.to("meta"), weight)
