"""NF4 against bitsandbytes where it is installed, against its bounds, and the compiled way back."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.base.errors import UserError
from modelwright.compression.nf4 import nf4_linear, quantize_scales
from modelwright.kernels import low_rank, native, nf4
from modelwright.kernels.nf4 import CODE
from modelwright.model import nf4 as layers
from modelwright.model.nf4 import NF4Linear, quantize_blocks

GAP = max(high - low for low, high in pairwise(CODE))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.02


def test_levels_and_code_book_are_those_of_bitsandbytes() -> None:
    judge = pytest.importorskip("bitsandbytes.functional")
    weight = normal(96, 128)
    theirs, state = judge.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=False)
    packed, scales = quantize_blocks(weight)
    turned = (packed >> 4) | (packed & 15) << 4  # they have the first level in the upper half
    assert torch.equal(turned.flatten(), theirs.flatten())
    assert torch.equal(scales, state.absmax)
    assert torch.equal(torch.tensor(CODE), state.code.cpu())
    theirs, state = judge.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=True)
    error = (judge.dequantize_4bit(theirs, state) - weight).square().mean()
    ours = (nf4_linear(weight).weight_in(torch.float32) - weight).square().mean()
    assert ours <= 1.001 * error  # with double quantization, no worse than theirs


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 150), st.integers(0, 1000), st.sampled_from([1e-6, 0.02, 1e4]))
def test_no_weight_is_off_by_more_than_the_bound(rows: int, columns: int, seed: int, size: float) -> None:
    weight = normal(rows, columns, seed=seed) * size
    layer = nf4_linear(weight)
    _, scales = quantize_blocks(weight)
    steps = layer.scale_steps.repeat_interleave(256)[: len(scales)]
    bound = (scales * GAP / 2 + steps / 2 + scales * 1e-6).repeat_interleave(64)[: weight.numel()]
    assert ((layer.weight_in(torch.float32) - weight).abs().flatten() <= bound).all()
    assert layer.weight_in(torch.bfloat16).shape == weight.shape


def test_normal_weights_lose_what_the_paper_says() -> None:
    weight = normal(512, 512)
    error = (nf4_linear(weight).weight_in(torch.float32) - weight).square().mean().sqrt() / weight.std()
    assert 0.08 < error < 0.10  # 0.0926: Q4_0 leaves 0.0859 with 4.5 bits, this has 4.13
    bits = 8 * sum(t.numel() * t.element_size() for t in nf4_linear(weight).buffers()) / weight.numel()
    assert bits < 4.135


def test_what_is_zero_stays_zero_and_what_is_none_is_refused() -> None:
    weight = normal(4, 64)
    weight[1:3] = 0
    weight[3, ::2] = 0
    found = nf4_linear(weight).weight_in(torch.float32)
    assert not found[3, ::2].any()
    assert not quantize_blocks(weight)[1][1:3].any()  # the scales themselves are exact until they are rounded
    with pytest.raises(UserError, match="not finite"):
        nf4_linear(torch.full((2, 64), torch.inf))


def test_scales_that_are_alike_lose_nothing() -> None:
    levels, steps, means = quantize_scales(torch.full((300,), 0.25))
    assert not levels.any() and not steps.any() and means.tolist() == [0.25, 0.25]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_compiled_way_back_gives_the_same_bits(dtype: torch.dtype) -> None:
    if native.library(dtype) is None:
        pytest.skip("no C++ compiler here")
    weight = normal(600, 64).to(dtype)
    weight[5] = 0
    packed, scales = quantize_blocks(weight)
    assert all(map(torch.equal, (packed, scales), nf4.reference_levels(weight)))
    assert torch.equal(
        nf4.weights(packed, scales, dtype).view(torch.uint8),
        nf4.reference(packed, scales, dtype).view(torch.uint8),
    )


def test_gradients_reach_the_input_and_no_weight_is_kept() -> None:
    layer: NF4Linear = nf4_linear(normal(96, 128), bias=True)
    assert layer.bias is not None
    layer.bias.uniform_()
    x = normal(5, 128, seed=1).requires_grad_()
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        y = layer(x)
    weight = layer.weight_in(torch.float32)
    torch.testing.assert_close(y, x @ weight.T + layer.bias)
    assert not kept
    y.square().sum().backward()
    torch.testing.assert_close(x.grad, 2 * y.detach() @ weight)


@given(st.integers(1, 300), st.integers(1, 260), st.sampled_from([0, 1]), st.sampled_from([64, 4096, 2**21]))
@settings(max_examples=30, deadline=None)
def test_parts_are_the_weight(rows: int, columns: int, axis: int, size: int) -> None:
    layer = nf4_linear(normal(rows, columns, seed=rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "PART", size)
        parts = list(layer.parts_in(torch.float32, axis))
    assert torch.equal(torch.cat(parts, axis), layer.weight_in(torch.float32))
    if columns % 64 == 0:  # rows are counted in 64s and columns in blocks of them
        assert all(part.numel() <= size + 64 * max(rows, columns) for part in parts)


@pytest.mark.parametrize("biased", [False, True])
def test_a_change_beside_parts_has_the_gradients_of_one_beside_the_whole(
    biased: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "PART", 64 * 64)
    layer, x = nf4_linear(normal(200, 192)), normal(30, 192, seed=1).bfloat16().requires_grad_()
    a, b = normal(4, 192, seed=2).requires_grad_(), normal(200, 4, seed=3).requires_grad_()
    bias = normal(200, seed=4).bfloat16() if biased else None
    assert len(list(layer.parts_in(torch.bfloat16, 0))) > 2 < len(list(layer.parts_in(torch.bfloat16, 1)))

    def both(weight: low_rank.Frozen) -> tuple[torch.Tensor, ...]:
        (y,) = low_rank.adapted(x, [(weight, bias)], [(a, b, 0.5)])
        return y, *torch.autograd.grad(y, (x, a, b), torch.ones_like(y))

    whole = both(partial(layer.weight_in, torch.bfloat16))
    parts = both(low_rank.InParts(partial(layer.parts_in, torch.bfloat16), 200))
    for found, expected in zip(parts, whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-5)
