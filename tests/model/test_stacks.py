"""Experts in fewer bits, and a change of each that is trained: against one linear layer for each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from modelwright.base.errors import ConfigError, DamagedFile, UserError
from modelwright.compression.nf4 import nf4_linear
from modelwright.formats.frozen import load_frozen
from modelwright.formats.huggingface import load_model, load_tensors, save_weights
from modelwright.model.adaptation import AdapterConfig, adapt, adapter_of
from modelwright.model.adapters import AdapterSet, adaptable_layers, expert_stacks
from modelwright.model.moe import StackedLinear
from modelwright.model.stacks import LowRankStack, QuantizedStack

EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
EVERY = AdapterConfig(rank=2, layers=("*", "*.experts.*"))
SIZES = torch.tensor([3, 0, 5, 2])
IDS = torch.randint(0, 90, (2, 9), generator=torch.Generator().manual_seed(3))


def stack_of(experts: int, out_features: int, in_features: int) -> StackedLinear:
    made = StackedLinear(experts, in_features, out_features)
    torch.nn.init.normal_(made.weight, std=0.3, generator=torch.Generator().manual_seed(1))
    return made


@pytest.mark.parametrize("quantized", [False, True], ids=["full", "nf4"])
@pytest.mark.parametrize("rank", [3, 4], ids=["a call per group", "grouped product"])
def test_each_expert_is_changed_as_a_matrix_of_its_own(quantized: bool, rank: int) -> None:
    base = stack_of(4, 16, 32)
    if quantized:
        held = QuantizedStack([nf4_linear(weight) for weight in base.weight.detach()])
        weights = held.weight_in(torch.float32)
        assert 0 < (weights - base.weight).abs().max() < 0.3
        base = held
    else:
        weights = base.weight.detach().clone()
    changed = LowRankStack(base, rank, scale=0.7)
    generator = torch.Generator().manual_seed(2)
    changed.initialize(generator)
    rows = torch.randn(10, 32, generator=generator, requires_grad=True)
    assert torch.equal(changed(rows, SIZES), base(rows, SIZES))  # B is zero
    torch.nn.init.normal_(changed.b, generator=generator)
    changed(rows, SIZES).square().sum().backward()
    found = [rows.grad, changed.a.grad, changed.b.grad]
    assert not any(parameter.requires_grad for parameter in base.parameters())
    plain, a, b = (each.detach().clone().requires_grad_() for each in (rows, changed.a, changed.b))
    parts = [
        F.linear(part, weights[expert] + 0.7 * b[expert] @ a[expert])
        for expert, part in enumerate(plain.split(SIZES.tolist()))
    ]
    torch.cat(parts).square().sum().backward()
    for mine, expected in zip(found, (plain.grad, a.grad, b.grad), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture
def folder(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model("qwen3_moe", **EXPERTS)


def test_a_mixture_is_read_in_fewer_bits_one_expert_at_a_time(folder: Path) -> None:
    full, model = load_model(folder), load_frozen(folder, torch.float32, nf4_linear)
    stacks = expert_stacks(model)
    assert len(stacks) == 6 and all(isinstance(stack, QuantizedStack) for stack in stacks.values())
    for name, stack in expert_stacks(full).items():
        quantized = stacks[name]
        assert isinstance(stack, StackedLinear) and isinstance(quantized, QuantizedStack)
        with torch.no_grad():
            stack.weight.copy_(quantized.weight_in(torch.float32))
    for name, layer in adaptable_layers(model).items():
        with torch.no_grad():
            full.get_parameter(f"{name}.weight").copy_(layer.weight_in(torch.float32))
    with torch.no_grad():
        torch.testing.assert_close(model(IDS).logits(), full(IDS).logits(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("quantize", [None, nf4_linear], ids=["full", "nf4"])
def test_untrained_changes_change_no_bit_and_one_goes_on_from_another(folder: Path, quantize) -> None:
    model = load_frozen(folder, torch.float32, quantize)
    with torch.no_grad():
        before = model(IDS).logits()
    adapt(model, EVERY, seed=3)
    assert sum(isinstance(layer, LowRankStack) for layer in model.modules()) == 6
    with torch.no_grad():
        assert torch.equal(model(IDS).logits(), before)
        for layer in model.modules():
            if isinstance(layer, LowRankStack):
                torch.nn.init.normal_(layer.b, std=0.2, generator=torch.Generator().manual_seed(5))
        changed = model(IDS).logits()
        assert not torch.equal(changed, before)
    again = load_frozen(folder, torch.float32, quantize)
    adapt(again, AdapterConfig(), seed=4, begin=adapter_of(model))
    with torch.no_grad():
        assert torch.equal(again(IDS).logits(), changed)


def test_experts_are_changed_where_a_pattern_names_them(folder: Path) -> None:
    model = load_model(folder)
    adapt(model, AdapterConfig(rank=2), seed=3)
    assert not any("experts" in name for name in adapter_of(model).layers)
    for settings, message in (({"kind": "dora"}, "kind: dora is not"), ({"dropout": 0.1}, "dropout is not")):
        with pytest.raises(ConfigError, match=message):
            adapt(load_model(folder), EVERY.model_copy(update=settings), seed=3)


def test_an_adapter_of_experts_is_served_merged_alone(folder: Path) -> None:
    model = load_model(folder)
    adapt(model, EVERY, seed=3)
    with pytest.raises(UserError, match=r"changes experts.*merge it into a model of its own"):
        AdapterSet(load_model(folder)).add("it", adapter_of(model))


def test_experts_that_do_not_fit_are_refused_in_fewer_bits_too(folder: Path, tmp_path: Path) -> None:
    tensors = load_tensors(folder / "model.safetensors")
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    one = "model.layers.1.mlp.experts.3.up_proj.weight"
    for broken in (
        {name: each for name, each in tensors.items() if name != one},
        tensors | {one: tensors[one][:-1].contiguous()},
        tensors | {"model.layers.7.mlp.experts.0.up_proj.weight": tensors[one].clone()},
    ):
        save_weights(tmp_path / "model.safetensors", broken)
        with pytest.raises((UserError, DamagedFile)):
            load_frozen(tmp_path, torch.float32, nf4_linear)
