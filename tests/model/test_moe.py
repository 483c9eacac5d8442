"""A mixture of experts: what it computes, what it costs, and what the dial derives."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.model.mixtures import config

from modelwright.base.errors import ConfigError
from modelwright.model import moe
from modelwright.model.config import ModelChoice
from modelwright.model.flops import idle_parameters, matmul_parameters, training_flops_per_token
from modelwright.model.init import initialize
from modelwright.model.transformer import Transformer


def mixture(seed: int = 1, **changes: object) -> moe.MixtureOfExperts:
    module = moe.MixtureOfExperts(config(**changes))
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    return module


@given(
    st.integers(1, 6).flatmap(lambda experts: st.tuples(st.just(experts), st.integers(1, experts))),
    st.integers(1, 12),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_sorted_tokens_give_what_every_expert_on_every_token_gives(
    sizes: tuple[int, int], length: int, normalise: bool, favoured: bool
) -> None:
    experts, per_token = sizes
    changes = {"num_experts": experts, "num_experts_per_tok": per_token, "norm_topk_prob": normalise}
    module = mixture(**changes)
    generator = torch.Generator().manual_seed(length)
    x = torch.randn(2, length, 32, generator=generator, requires_grad=True)
    favour = torch.randn(experts, generator=generator) if favoured else None
    ours, plain = module(x, favour)[0], moe.reference(module, x, favour)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)
    upstream = torch.randn(x.shape, generator=generator)
    wanted = (x, *module.parameters())
    for a, b in zip(
        torch.autograd.grad(ours, wanted, upstream, allow_unused=True),
        torch.autograd.grad(plain, wanted, upstream, allow_unused=True),
        strict=True,
    ):
        if a is not None or b is not None:
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_the_k_most_likely_experts_are_taken_and_weighted_by_their_share() -> None:
    module = mixture()
    x = torch.randn(7, 32, generator=torch.Generator().manual_seed(0))
    routing, weights = module.gate(x, None)
    probabilities = (x @ module.gate.weight.T).softmax(-1)
    top = probabilities.topk(2, dim=-1)
    assert torch.equal(routing.chosen, top.indices)
    torch.testing.assert_close(weights, top.values / top.values.sum(-1, keepdim=True))


def test_favour_sways_the_choice_and_not_the_weights() -> None:
    module = mixture(norm_topk_prob=False)
    x = torch.randn(7, 32, generator=torch.Generator().manual_seed(0))
    routing, weights = module.gate(x, torch.tensor([0.0, 0, 0, 100, 0, 0]))
    assert (routing.chosen == 3).any(-1).all()
    probabilities = (x @ module.gate.weight.T).softmax(-1)
    torch.testing.assert_close(weights, probabilities.gather(1, routing.chosen))


def test_routing_is_decided_in_fp32_whatever_the_activations_are() -> None:
    module = mixture()
    x = torch.randn(64, 32, generator=torch.Generator().manual_seed(0)).bfloat16()
    routing, weights = module.gate(x, None)
    assert routing.logits.dtype == weights.dtype == torch.float32
    torch.testing.assert_close(routing.logits, x.float() @ module.gate.weight.T)


def test_no_token_is_dropped_when_all_want_one_expert() -> None:
    module = mixture()
    with torch.no_grad():
        module.gate.weight.zero_()
        module.gate.weight[4] = 1.0
    x = torch.rand(1, 50, 32, generator=torch.Generator().manual_seed(0))
    assert (module(x, None)[1].chosen == 4).sum() == 50
    torch.testing.assert_close(module(x, None)[0], moe.reference(module, x), rtol=1e-5, atol=1e-5)


def test_choices_are_sorted_by_expert_and_then_by_token() -> None:
    place, sizes = moe.sort_by_expert(torch.tensor([[2, 0], [0, 2], [2, 1]]), 4)
    assert sizes.tolist() == [2, 1, 3, 0]
    assert place.tolist() == [[3, 0], [1, 4], [5, 2]]


def test_layers_may_be_dense() -> None:
    shape = config(num_hidden_layers=6, decoder_sparse_step=2, mlp_only_layers=(3,))
    assert shape.mixture_layers == (1, 5)
    model = Transformer(shape)
    initialize(model, 1)
    ids = torch.arange(9)[None]
    favour = torch.zeros(2, 6)
    assert torch.equal(model(ids, favour=favour).hidden, model(ids).hidden)
    assert len(model(ids).routings) == 2


def test_active_parameters_are_those_that_a_token_meets() -> None:
    shape = config(num_hidden_layers=4, decoder_sparse_step=2)
    model = Transformer(shape)
    matrices = sum(p.numel() for p in model.parameters() if p.ndim > 1)
    assert idle_parameters(shape) == 2 * (6 - 2) * 3 * 32 * 24
    assert matmul_parameters(shape) == matrices - idle_parameters(shape)
    assert model.num_active_parameters() == model.num_parameters() - idle_parameters(shape)


@given(st.integers(1, 24), st.sampled_from([2, 4, 8, 64]), st.integers(1, 2))
@settings(max_examples=40, deadline=None)
def test_a_mixture_costs_what_the_dense_network_of_its_depth_costs(depth: int, experts: int, k: int) -> None:
    dense = ModelChoice(depth=depth).derive(4096)
    sparse = ModelChoice(depth=depth, experts=experts, experts_per_token=k).derive(4096)
    assert sparse.architecture == "qwen3_moe" and sparse.moe_intermediate_size % 32 == 0
    ratio = training_flops_per_token(sparse, 512) / training_flops_per_token(dense, 512)
    assert 1 <= ratio < 1.02 or experts == 64
    router = sparse.num_hidden_layers * sparse.hidden_size * experts
    assert matmul_parameters(sparse) - matmul_parameters(dense) == router


def test_a_dense_choice_is_what_it_was() -> None:
    dense = ModelChoice(depth=4).derive(4096)
    assert (dense.architecture, dense.num_experts, dense.mixture_layers) == ("qwen3", 0, ())
    assert idle_parameters(dense) == 0


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="no experts: expected qwen3"):
        ModelChoice(architecture="llama", experts=4).derive(64)
    with pytest.raises(ValueError, match="needs num_experts"):
        config(num_experts_per_tok=7)
    with pytest.raises(ValueError, match="has no experts"):
        config(architecture="qwen3")
    for choice in (ModelChoice(architecture="qwen3_moe"), ModelChoice(experts=4, experts_per_token=8)):
        with pytest.raises(ConfigError, match="'model' describes no network: qwen3_moe needs num_experts"):
            choice.derive(64)


def test_experts_start_alike_spread_and_unlike_each_other() -> None:
    model = Transformer(config())
    initialize(model, 3)
    experts = model.model.layers[0].mlp.experts
    for stack, fan_in, shrink in ((experts.gate_proj, 32, 1.0), (experts.down_proj, 24, 0.5)):
        stds = stack.weight.flatten(1).std(1)
        torch.testing.assert_close(stds, torch.full((6,), shrink * fan_in**-0.5), rtol=0.1, atol=0)
        assert not torch.equal(stack.weight[0], stack.weight[1])


@pytest.mark.filterwarnings("ignore")  # the compiler looks at what warns when it is looked at
def test_a_compiled_mixture_computes_the_same() -> None:
    module = mixture()
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    eager, said = module(x, None)
    module.compile(dynamic=False, backend="eager")
    compiled, said_then = module(x, None)
    torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=1e-5)
    assert torch.equal(said.chosen, said_then.chosen)
