"""Muon's variants against what they are defined to be, and against their own state taken up again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from tests.training.tiny import make_model, make_windows, train_in

from modelwright.base.metrics import read_metrics
from modelwright.model.adaptation import AdapterConfig, adapt
from modelwright.model.config import ModelConfig
from modelwright.model.init import initialize
from modelwright.model.transformer import Transformer
from modelwright.objectives.next_token import NextToken
from modelwright.training.loop import LoopConfig
from modelwright.training.muon import (
    POLAR_EXPRESS,
    coefficients,
    even_out,
    neuron_axis,
    orthogonalize,
    scale_of,
)
from modelwright.training.optimizer import Optimizer, OptimizerConfig

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "polar": {"iteration": "polar", "iterations": 4},
    "even": {"even_neurons": True},
    "decay": {"weight_decay": 0.1, "decay_falls": True},
    "cautious": {"weight_decay": 0.1, "cautious": True},
    "rms": {"scale": "rms"},
    "adamw": {"kind": "adamw", "weight_decay": 0.1, "decay_falls": True},
}


def matrices(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_each_polynomial_of_polar_express_is_the_best_on_what_the_last_one_left() -> None:
    """The best odd quintic on [low, high] overshoots 1 by as much as it falls short: 2 - low again."""
    low, high = 1e-3, 1.0
    for a, b, c in POLAR_EXPRESS:
        x = np.linspace(low, high, 100_001)
        y = a * x + b * x**3 + c * x**5
        assert y.min() + y.max() == pytest.approx(2.0, abs=1e-6)
        low, high = float(y.min()), float(y.max())
    assert low > 0.87


@pytest.mark.parametrize(("steps", "low", "high"), [(3, 0.12, 1.9), (4, 0.41, 1.6), (5, 0.84, 1.15)])
def test_polar_express_brings_singular_values_near_one(steps: int, low: float, high: float) -> None:
    u, _, vt = torch.linalg.svd(matrices(3, 24, 40), full_matrices=False)
    spread = torch.logspace(-2.4, 0, 24).expand(3, 24)
    found = orthogonalize(u * spread.unsqueeze(1) @ vt, steps, "polar")
    values = torch.linalg.svdvals(found)
    assert low < values.min() and values.max() < high


def test_a_longer_row_goes_on_where_the_shorter_one_ended() -> None:
    assert coefficients("polar", 5)[:3] == coefficients("polar", 3)
    assert coefficients("polar", 7)[4:] == (POLAR_EXPRESS[-1],) * 3
    assert len(coefficients("jordan", 4)) == 4


@given(
    lead=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    iteration=st.sampled_from(["jordan", "polar"]),
)
@settings(deadline=None, max_examples=40)
def test_stacks_are_treated_matrix_by_matrix(
    lead: list[int], rows: int, columns: int, iteration: Any
) -> None:
    stack = matrices(*lead, rows, columns)
    together = orthogonalize(stack, 5, iteration)
    assert together.shape == stack.shape and together.isfinite().all()
    for one, own in zip(stack.view(-1, rows, columns), together.reshape(-1, rows, columns), strict=True):
        torch.testing.assert_close(orthogonalize(one[None], 5, iteration)[0], own, rtol=1e-3, atol=1e-4)


def test_the_rms_scale_gives_updates_of_the_size_of_adamw() -> None:
    for rows, columns in ((64, 64), (64, 192), (192, 64)):
        update = torch.linalg.svd(matrices(rows, columns), full_matrices=False)
        size = (update.U @ update.Vh).square().mean().sqrt() * scale_of(rows, columns, "rms")
        assert size.item() == pytest.approx(0.2, rel=1e-5)
    assert scale_of(64, 192, "spectral") == 1 and scale_of(192, 64, "spectral") == pytest.approx(3**0.5)


@pytest.mark.parametrize("shape", [(6, 3), (3, 6), (2, 6, 3)])
def test_even_neurons_even_out_the_longer_side_and_keep_the_norm(shape: tuple[int, ...]) -> None:
    uneven = torch.linspace(0.2, 4, max(shape[-2:]))
    update = matrices(*shape) * (uneven[:, None] if shape[-2] >= shape[-1] else uneven)
    second = torch.zeros(*shape[:-2], max(shape[-2:]))
    axis = neuron_axis(*shape[-2:])
    found = update * even_out(update.square().mean(axis), second, beta=0.9).unsqueeze(axis)
    sizes = found.square().mean(axis)
    torch.testing.assert_close(sizes, sizes.mean(-1, keepdim=True).expand_as(sizes), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found.norm(dim=(-2, -1)), update.norm(dim=(-2, -1)))
    torch.testing.assert_close(second, 0.1 * update.square().mean(axis))


def one_step(changes: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix inside a block before and after a step with a gradient of its own."""
    model = make_model()
    settings = OptimizerConfig.model_validate({"matrix_learning_rate": 0.1, "learning_rate": 1e-3} | changes)
    optimizer = Optimizer(model.named_parameters(), settings)
    for number, parameter in enumerate(model.parameters()):
        parameter.grad = matrices(*parameter.shape, seed=number)
    weight = model.model.layers[0].mlp.up_proj.weight
    before = weight.detach().clone()
    optimizer.step(0.5)
    return before, weight.detach()


def test_decay_shrinks_and_cautious_decay_only_where_the_update_agrees() -> None:
    before, plain = one_step({})
    step = before - plain
    decayed, cautious = (one_step({"weight_decay": 0.4, "cautious": c})[1] for c in (False, True))
    torch.testing.assert_close(plain - decayed, 0.5 * 0.1 * 0.4 * before, rtol=1e-3, atol=1e-6)
    agrees = step * before > 0
    wanted = torch.where(agrees, decayed, plain)
    torch.testing.assert_close(cautious, wanted, rtol=1e-4, atol=1e-6)
    assert 0.1 < agrees.float().mean() < 0.9
    falling = one_step({"weight_decay": 0.4, "decay_falls": True})[1]
    torch.testing.assert_close(plain - falling, 0.5 * (plain - decayed), rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_learns_and_its_state_taken_up_again_gives_the_same_bits(name: str, tmp_path: Any) -> None:
    settings = OptimizerConfig.model_validate(
        {"learning_rate": 1e-2, "matrix_learning_rate": 0.02} | VARIANTS[name]
    )
    config = LoopConfig(optimizer=settings, checkpoint_every=15)
    train_in(tmp_path / "a", make_model(), NextToken(), make_windows(rows=8), 60, config)
    losses = [line["loss"] for line in read_metrics(tmp_path / "a" / "metrics.jsonl")]
    assert sum(losses[-5:]) < 0.92 * sum(losses[:5])

    models = make_model(), make_model()
    optimizers = [Optimizer(model.named_parameters(), settings) for model in models]
    for step in range(4):
        if step == 2:
            state = load(save({k: v.contiguous() for k, v in optimizers[0].state().items()}))
            models[1].load_state_dict(models[0].state_dict())
            optimizers[1].load_state(state)
        for model, optimizer in zip(models, optimizers, strict=True):
            batch = make_windows()[step]
            optimizer.zero_grad()
            NextToken()(model.on_batch(batch), batch)[0].backward()
            optimizer.step(1.0 - step / 10)
    assert all(torch.equal(a, b) for a, b in zip(*(m.parameters() for m in models), strict=True))


def test_experts_are_matrices_for_muon() -> None:
    shape = ModelConfig(
        architecture="qwen3_moe", vocab_size=40, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16, num_experts=3, num_experts_per_tok=2,
        moe_intermediate_size=32,
    )  # fmt: skip
    model = Transformer(shape)
    initialize(model, 0)
    settings = OptimizerConfig(matrix_learning_rate=0.1)
    optimizer = Optimizer(model.named_parameters(), settings)
    name = "model.layers.0.mlp.experts.up_proj.weight"
    assert f"momentum/{name}" in optimizer.state()
    experts = dict(model.named_parameters())[name]
    before = experts.detach().clone()
    for parameter in model.parameters():
        parameter.grad = matrices(*parameter.shape)
    optimizer.step(1.0)
    values = torch.linalg.svdvals(before - experts.detach()) / 0.1
    assert values.shape == (3, 32) and values.max() < 1.3 and values.median() > 0.6


@pytest.mark.parametrize("shape", [(6, 3), (3, 6)])
def test_an_update_of_zeros_stays_one_when_neurons_are_evened_out(shape: tuple[int, ...]) -> None:
    second = torch.zeros(6)
    for update, wanted in ((torch.zeros(shape), 0.0), (torch.ones(shape), 1.0)):
        axis = neuron_axis(*shape)
        found = update * even_out(update.square().mean(axis), second, beta=0.9).unsqueeze(axis)
        torch.testing.assert_close(found, torch.full(shape, wanted))


def test_adapters_alone_leave_nothing_to_adamw_and_resume(tmp_path) -> None:
    """All that LoRA trains are matrices inside the blocks."""

    def train_adapted(folder: str, steps: int) -> Transformer:
        model = make_model()
        adapt(model, AdapterConfig(rank=4), seed=2)
        config = LoopConfig(checkpoint_every=3, optimizer=OptimizerConfig(kind="muon", even_neurons=True))
        train_in(tmp_path / folder, model, NextToken(), make_windows(), steps, config)
        return model

    whole = train_adapted("whole", 6)
    train_adapted("broken", 3)
    resumed = train_adapted("broken", 6)
    begin = make_model()
    adapt(begin, AdapterConfig(rank=4), seed=2)
    changed = 0
    for (name, a), b, c in zip(
        whole.named_parameters(), resumed.parameters(), begin.parameters(), strict=True
    ):
        assert torch.equal(a, b), name
        changed += not torch.equal(a, c)
        assert torch.equal(a, c) or a.requires_grad, name
    assert changed
