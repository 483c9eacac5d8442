"""Each fast path beside the plain version it stands for, forward and backward."""

from __future__ import annotations

import pytest
import torch

from modelwright.kernels import rms_norm as norm
from modelwright.kernels import rotary, swiglu
from modelwright.kernels.attention import additive, attend, explicit
from modelwright.model.attention import segment_mask

pytestmark = pytest.mark.usefixtures("each_path")


def same_gradients(ours: torch.Tensor, plain: torch.Tensor, inputs: tuple[torch.Tensor, ...]) -> None:
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)
    upstream = torch.randn(ours.shape, generator=torch.Generator().manual_seed(9))
    got = torch.autograd.grad(ours, inputs, upstream)
    wanted = torch.autograd.grad(plain, inputs, upstream)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


@pytest.mark.parametrize("shape", [(3, 8), (2, 5, 4, 16)])
def test_rms_norm(shape):
    x, weight = random(*shape), random(shape[-1], seed=1)
    same_gradients(norm.rms_norm(x, weight, 1e-6), norm.reference(x, weight, 1e-6), (x, weight))


def test_rms_norm_of_zeros_is_zero_with_finite_gradients():
    x, weight = torch.zeros(2, 8, requires_grad=True), torch.ones(8, requires_grad=True)
    found = norm.rms_norm(x, weight, 1e-6)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    assert (found == 0).all() and gradient.isfinite().all()


def test_rms_norm_in_bf16_is_as_exact_as_the_plain_one():
    x, weight = random(64, 256).bfloat16(), random(256, seed=1)
    exact = norm.reference(x.float(), weight, 1e-6)
    ours, plain = norm.rms_norm(x, weight, 1e-6), norm.reference(x, weight, 1e-6)
    assert (ours.float() - exact).abs().max() <= 1.01 * (plain.float() - exact).abs().max()


def test_rotation():
    x = random(2, 3, 5, 8)
    angles = torch.randn(1, 1, 5, 4, generator=torch.Generator().manual_seed(2)).repeat(1, 1, 1, 2)
    cos, sin = angles.cos(), angles.sin()
    same_gradients(rotary.rotate(x, cos, sin), rotary.reference(x, cos, sin), (x,))


def test_swiglu():
    gate, up = random(3, 5, 7), random(3, 5, 7, seed=1)
    same_gradients(swiglu.swiglu(gate, up), swiglu.reference(gate, up), (gate, up))


@pytest.mark.parametrize("shape", [(7, 7), (1, 3, 7, 7), (2, 3, 7, 7), (2, 1, 1, 7)])
def test_masks_of_every_shape_that_attention_allows(shape):
    q, k, v = (random(2, 3, 7, 8, seed=seed) for seed in range(3))
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(5)) < 0.5
    mask[..., 0] = True
    fused = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    same_gradients(attend(q, k, v, additive(mask, q.dtype), causal=False), fused, (q, k, v))


def test_second_derivatives_are_refused():
    x, weight = random(3, 8), random(8, seed=1)
    (first,) = torch.autograd.grad(norm.rms_norm(x, weight, 1e-6).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(first.square().sum(), x)


def test_explicit_attention_equals_the_fused_one():
    q, k, v = (random(2, 3, 7, 8, seed=seed) for seed in range(3))
    mask = segment_mask(torch.tensor([[0, 0, 0, 1, 1, 1, 1], [0, 1, 1, 2, 2, 2, 3]]))
    fused = torch.nn.functional.scaled_dot_product_attention
    bias = additive(mask, q.dtype)
    for ours in (explicit(q, k, v, bias), attend(q, k, v, bias, causal=False)):
        same_gradients(ours, fused(q, k, v, attn_mask=mask), (q, k, v))
    with torch.no_grad():
        torch.testing.assert_close(attend(q, k, v, bias, causal=False), fused(q, k, v, attn_mask=mask))


def test_explicit_attention_in_bf16_has_at_most_twice_the_fused_ones_error():
    mask = segment_mask(torch.tensor([[0] * 80 + [1] * 176, [0] * 133 + [1] * 123]))
    exact = [random(2, 3, 256, 64, seed=seed) for seed in range(3)]
    upstream = random(2, 3, 256, 64, seed=3).detach()

    def run(attention, dtype):
        q, k, v = (x.detach().to(dtype).requires_grad_() for x in exact)
        out = attention(q, k, v, additive(mask, dtype))
        out.backward(upstream.to(dtype))
        return [x.float() for x in (out.detach(), q.grad, k.grad, v.grad)]

    def fused(q, k, v, bias):
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)

    truth = run(fused, torch.float32)
    for ours, theirs, true in zip(
        run(explicit, torch.bfloat16), run(fused, torch.bfloat16), truth, strict=True
    ):
        assert (ours - true).norm() <= 2.0 * (theirs - true).norm()
