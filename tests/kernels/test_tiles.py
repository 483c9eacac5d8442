"""Attention and weight gradients on CPUs with AVX512-BF16 or AMX, against plain ones in fp64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from modelwright.kernels import linear, tile_attention, tiles
from modelwright.kernels.attention import additive, explicit
from modelwright.model.attention import segment_mask
from modelwright.model.layers import Linear, project

pytestmark = [
    pytest.mark.skipif(tiles.library() is None, reason="this processor has neither AVX512-BF16 nor AMX"),
    pytest.mark.usefixtures("unit"),
]
ROUNDING = 2**-8
"""Of bf16: half a unit in the last place."""


@pytest.fixture(params=["matrix unit", "vectors"], scope="module")
def unit(request: pytest.FixtureRequest) -> Iterator[None]:
    """Products go through the matrix unit, where there is one, and without it."""
    library = tiles.library()
    assert library is not None
    library.prepare(request.param == "matrix unit")
    if request.param == "matrix unit" and not library.has_unit():
        pytest.skip("this processor has no matrix unit")
    yield
    library.prepare(1)


def reference(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if bias is None:
        bias = torch.full(scores.shape[-2:], float("-inf"), dtype=q.dtype).triu(1)
    return (scores + bias).softmax(-1) @ v


Inputs = tuple[Tensor, Tensor, Tensor]


def some(sizes: tuple[int, int, int, int, int], scale: float = 1.0) -> Inputs:
    """Queries, keys and values (B, H, K, T, hd), as the model hands them over: values by position."""
    batch, heads, kv_heads, length, size = sizes
    q, k = torch.randn(batch, heads, length, size), torch.randn(batch, kv_heads, length, size)
    v = torch.randn(batch, length, kv_heads, size).transpose(1, 2)
    q, k, v = ((scale * each).bfloat16().requires_grad_() for each in (q, k, v))
    return q, k, v


def wide(inputs: Inputs) -> Inputs:
    q, k, v = (each.double() for each in inputs)
    return q, k, v


def bias_of(batch: int, length: int, documents: float) -> Tensor:
    """Packed documents of that many tokens on average."""
    return additive(
        segment_mask((torch.rand(batch, length) < 1 / documents).long().cumsum(1)), torch.bfloat16
    )


def with_gradients(attend, inputs: Inputs, bias: Tensor | None, slope: Tensor) -> tuple[Tensor, ...]:
    leaves = [each.detach().requires_grad_() for each in inputs]
    out = attend(*leaves, bias)
    return (out, *torch.autograd.grad(out, leaves, slope.to(out.dtype)))


def error(found: Tensor, expected: Tensor) -> float:
    """Relative; next to what is almost nothing (documents of one token learn no queries), to a tenth."""
    expected = expected.detach()
    least = 0.1 * expected.numel() ** 0.5
    return float((found.detach().double() - expected).norm() / expected.norm().clamp(min=least))


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 3),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 3),
    length=st.integers(16, 200),
    size=st.sampled_from((32, 64, 96, 128)),
    documents=st.sampled_from((None, 3.0, 30.0, 1e9)),
    seed=st.integers(0, 10**6),
)
def test_attention_is_that_of_fp64(batch, kv_heads, group, length, size, documents, seed):
    torch.manual_seed(seed)
    inputs = some((batch, group * kv_heads, kv_heads, length, size))
    bias = None if documents is None else bias_of(batch, length, documents)
    enough_heads = batch * kv_heads >= torch.get_num_threads()
    assert tile_attention.usable(*inputs, bias) == enough_heads
    slope = torch.randn(batch, length, group * kv_heads, size).bfloat16().transpose(1, 2)
    exact = None if bias is None else bias.double()
    expected = with_gradients(reference, wide(inputs), exact, slope)
    for found, wanted in zip(
        with_gradients(tile_attention.attend, inputs, bias, slope), expected, strict=True
    ):
        assert error(found, wanted) < 5 * ROUNDING


@pytest.mark.parametrize("length", range(1, 16))
def test_short_rows_too(length):
    """Where the gradients of queries all but cancel, what is left of them is within the rest's rounding."""
    torch.manual_seed(length)
    inputs, slope = some((2, 4, 2, length, 32)), torch.randn(2, 4, length, 32).bfloat16()
    expected = with_gradients(reference, wide(inputs), None, slope.double())
    ours = with_gradients(tile_attention.attend, inputs, None, slope)
    for found, wanted in zip(ours, expected, strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=4 * ROUNDING, atol=4 * ROUNDING)


@pytest.mark.parametrize("length", [700, 1100])
def test_long_rows_are_done_in_parts(length):
    """More probabilities than are held at a time in the backward pass."""
    torch.manual_seed(0)
    inputs, bias = some((1, 2, 1, length, 64)), bias_of(1, length, 200.0)
    slope = torch.randn(1, 2, length, 64).bfloat16()
    expected = with_gradients(reference, wide(inputs), bias.double(), slope)
    for found, wanted in zip(
        with_gradients(tile_attention.attend, inputs, bias, slope), expected, strict=True
    ):
        assert error(found, wanted) < 2 * ROUNDING


def test_large_scores_keep_their_precision():
    """Scores are not rounded before the softmax, as in an attention that is written out."""
    torch.manual_seed(0)
    inputs, bias = some((2, 4, 2, 128, 64), scale=4.0), bias_of(2, 128, 40.0)
    expected = reference(*wide(inputs), bias.double())
    ours = error(tile_attention.attend(*inputs, bias), expected)
    assert ours < 3 * ROUNDING
    assert ours < error(explicit(*inputs, bias), expected) / 2


def test_a_document_gets_the_same_bits_alone_and_in_company():
    torch.manual_seed(0)
    inputs = some((2, 4, 2, 128, 64))
    apart = additive(segment_mask((torch.arange(128) // 64).expand(2, -1)), torch.bfloat16)
    together = tile_attention.attend(*inputs, apart)
    q, k, v = (each[:1, :, 64:] for each in inputs)
    assert torch.equal(together[:1, :, 64:], tile_attention.attend(q, k, v, None))


def test_the_number_of_threads_changes_nothing():
    torch.manual_seed(0)
    inputs, bias, slope = some((3, 4, 2, 96, 64)), bias_of(3, 96, 30.0), torch.randn(3, 4, 96, 64).bfloat16()
    threads = torch.get_num_threads()
    try:
        found = []
        for number in (1, 3):
            torch.set_num_threads(number)
            found.append(with_gradients(tile_attention.attend, inputs, bias, slope))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, three) for one, three in zip(*found, strict=True))


def test_what_is_not_a_number_shows():
    inputs = some((1, 2, 2, 64, 32))
    with torch.no_grad():
        inputs[0][0, 0, 10, 3] = float("nan")
    out = tile_attention.attend(*inputs, None)
    assert out[0, 0, 10].isnan().all()
    assert out[0, 1].isfinite().all()


@given(rows=st.integers(1, 150), columns=st.integers(1, 150))
@settings(max_examples=30, deadline=None)
def test_a_turned_matrix_is_the_transpose(rows, columns):
    x = torch.randn(rows, columns).bfloat16()
    assert torch.equal(tiles.turned(x), x.T)
    assert torch.equal(tiles.turned_wide(x), x.T.float())
    total = torch.randn(columns, rows)
    assert torch.equal(tiles.turned_wide(x, total.clone()), total + x.T.float())


@pytest.mark.parametrize("outs", [(96,), (40, 16, 16), (200, 200)])
def test_layers_that_share_their_input_learn_as_they_would_alone(outs):
    torch.manual_seed(0)
    x = torch.randn(3, 37, 64).bfloat16().requires_grad_()
    layers = [Linear(64, out, bias=False) for out in outs]
    found = project(x, *layers)
    slopes = [torch.randn_like(each) for each in found]
    weights = [layer.weight for layer in layers]
    gradients = torch.autograd.grad(found, (x, *weights), slopes)
    exact = x.detach().double().requires_grad_()
    leaves = [weight.detach().bfloat16().double().requires_grad_() for weight in weights]
    expected = [exact @ leaf.T for leaf in leaves]
    wanted = torch.autograd.grad(expected, (exact, *leaves), [slope.double() for slope in slopes])
    for ours, theirs in zip((*found, *gradients), (*expected, *wanted), strict=True):
        assert error(ours.detach(), theirs.detach()) < 2 * ROUNDING
    assert [gradient.dtype for gradient in gradients[1:]] == [torch.float32] * len(outs)


@pytest.mark.parametrize(
    "watch",
    [
        "register_forward_pre_hook",
        "register_forward_hook",
        "register_full_backward_pre_hook",
        "register_full_backward_hook",
    ],
)
def test_a_layer_that_is_watched_does_its_own_product(watch):
    layers = [Linear(32, 32, bias=False) for _ in range(2)]
    seen: list[object] = []
    getattr(layers[0], watch)(lambda _, *given: seen.append(given))
    found = project(torch.randn(4, 32).bfloat16().requires_grad_(), *layers)
    torch.autograd.backward(found, [torch.ones_like(each) for each in found])
    assert len(seen) == 1


def test_a_layer_takes_a_single_row():
    layer = Linear(32, 48, bias=False)
    row = torch.randn(32).bfloat16().requires_grad_()
    alone = layer(row)
    together = layer(row[None])
    slope = torch.randn_like(alone)
    leaves = (row, layer.weight)
    assert torch.equal(alone, together[0])
    for one, many in zip(
        torch.autograd.grad(alone, leaves, slope),
        torch.autograd.grad(together, leaves, slope[None]),
        strict=True,
    ):
        assert torch.equal(one, many)


def test_gradients_are_added_whatever_the_layout_of_their_sum():
    torch.manual_seed(0)
    slope, x = torch.randn(64, 40).bfloat16(), torch.randn(64, 8).bfloat16()
    dense, turned = torch.zeros(40, 8), torch.zeros(8, 40).T
    for total in (dense, turned):
        linear.add_weight_gradient(total, slope, x)
        assert error(total, slope.double().T @ x.double()) < 2 * ROUNDING


def test_what_sizes_and_formats_do_not_fit_takes_another_path():
    q, k, v = (each.detach() for each in some((2, 4, 2, 64, 32)))
    assert tile_attention.usable(q, k, v, None)
    assert not tile_attention.usable(q, k.float(), v, None)
    assert not tile_attention.usable(q, k, v.float(), None)
    assert not tile_attention.usable(q, k, v, torch.zeros(1, 1, 64, 64))
    assert not tile_attention.usable(q, k, v[..., :16], None)
    assert not tile_attention.usable(q, k[:1], v[:1], None)
    assert not tile_attention.usable(q[:, :3], k, v, None)
    assert not tile_attention.usable(q, k[:, :, :32], v[:, :, :32], None)
    q, k, v = q[:, :, :0], k[:, :, :0], v[:, :, :0]
    assert not tile_attention.usable(q, k, v, torch.zeros(1, 1, 0, 0).bfloat16())


def test_who_may_attend_to_nothing_gets_nothing_and_teaches_nothing():
    """As in torch's fused attention. Single rows, and whole panels of them."""
    torch.manual_seed(0)
    inputs, bias = some((1, 2, 1, 96, 32)), bias_of(1, 96, 1e9)
    blind = torch.tensor([3, 20, *range(32, 64), 95])
    bias[:, :, blind] = float("-inf")
    slope = torch.randn(1, 2, 96, 32).bfloat16()
    out, *gradients = with_gradients(tile_attention.attend, inputs, bias, slope)
    assert not out[:, :, blind].any() and not gradients[0][:, :, blind].any()
    seeing = torch.tensor(sorted({*range(96)} - {*blind.tolist()}))
    slope[:, :, blind] = 0
    exact = bias.double()
    exact[:, :, blind] = 0  # any value: nothing of it is kept
    expected = with_gradients(reference, wide(inputs), exact, slope)
    assert error(out[:, :, seeing], expected[0][:, :, seeing]) < 2 * ROUNDING
    for found, wanted in zip(gradients[1:], expected[2:], strict=True):
        assert error(found, wanted) < 2 * ROUNDING


def test_frozen_weights_and_other_formats_take_the_plain_path():
    weight = nn.Parameter(torch.randn(32, 32))
    assert linear.usable(torch.randn(4, 32).bfloat16(), weight)
    assert not linear.usable(torch.randn(4, 32), weight)
    assert not linear.usable(torch.randn(4, 32).bfloat16(), weight.detach())
    with torch.no_grad():
        assert not linear.usable(torch.randn(4, 32).bfloat16(), weight)
