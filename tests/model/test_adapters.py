"""Adapters: what they add, to which rows, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from modelwright.base.errors import UserError
from modelwright.compression.quantize import quantize
from modelwright.formats.huggingface import load_model
from modelwright.model.adapters import Adapter, AdapterSet, LowRank, adaptable_layers
from modelwright.model.quantized import Scheme
from modelwright.model.transformer import Transformer

IDS = torch.randint(0, 90, (4, 12), generator=torch.Generator().manual_seed(5))


def random_adapter(model: Transformer, seed: int, rank: int = 4, only: str = "") -> Adapter:
    """One that says quite something else, on every layer whose name holds `only`."""
    generator = torch.Generator().manual_seed(seed)

    def normal(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=generator) * 0.3

    layers = {name: layer for name, layer in adaptable_layers(model).items() if only in name}
    return Adapter(
        {
            name: LowRank(normal(rank, layer.in_features), normal(layer.out_features, rank), 2.0 / rank)
            for name, layer in layers.items()
        }
    )


def with_lengths(adapter: Adapter, seed: int) -> Adapter:
    """The same as DoRA, with lengths of rows of its own."""
    generator = torch.Generator().manual_seed(seed)
    lengths = {
        name: torch.rand(len(each.b), generator=generator) + 0.5 for name, each in adapter.layers.items()
    }
    return Adapter({name: replace(each, magnitude=lengths[name]) for name, each in adapter.layers.items()})


def merged(model: Transformer, adapter: Adapter) -> Transformer:
    """By the papers' formulas: W + s B A, with the rows brought to their lengths in DoRA."""
    for name, change in adapter.layers.items():
        weight = model.get_parameter(f"{name}.weight")
        with torch.no_grad():
            weight.add_(change.b @ change.a * change.scale)
            if change.magnitude is not None:
                weight.mul_((change.magnitude / weight.norm(dim=1))[:, None])
    return model


@pytest.fixture
def folder(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model("qwen2")  # its projections have biases


@torch.inference_mode()
@pytest.mark.parametrize("dora", [False, True], ids=["LoRA", "DoRA"])
def test_each_row_answers_with_its_own_adapter(folder: Path, dora: bool) -> None:
    model = load_model(folder)
    adapters = AdapterSet(model)
    some, other = random_adapter(model, 1), random_adapter(model, 2, rank=7, only="_proj")
    if dora:
        some = with_lengths(some, 3)
    plain = model(IDS).logits()
    adapters.add("some", some)
    adapters.add("other", other)
    with adapters.rows(["some", None, "other", "some"]):
        found = model(IDS).logits()
    expected = {
        name: merged(load_model(folder), each)(IDS).logits() for name, each in (("s", some), ("o", other))
    }
    assert torch.equal(found[1], plain[1])
    torch.testing.assert_close(found[[0, 3]], expected["s"][[0, 3]], atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(found[2], expected["o"][2], atol=2e-4, rtol=1e-4)
    assert (found - plain).abs().amax(dim=(1, 2)).tolist()[0] > 0.1
    assert torch.equal(model(IDS).logits(), plain)  # the rows were those of one pass


@torch.inference_mode()
@pytest.mark.parametrize("bits", [4, 8])
def test_quantized_models_are_adapted_too(folder: Path, bits: int) -> None:
    model = quantize(load_model(folder), Scheme(bits), torch.float32)
    adapters = AdapterSet(model)
    adapters.add("some", random_adapter(model, 1, only="mlp"))
    plain = model(IDS).logits()
    with adapters.rows([None, "some", None, None]):
        found = model(IDS).logits()
    assert torch.equal(found[[0, 2, 3]], plain[[0, 2, 3]])
    assert (found[1] - plain[1]).abs().max() > 0.1


@torch.inference_mode()
def test_in_bf16_the_change_is_that_of_fp32_within_rounding(folder: Path) -> None:
    adapter = random_adapter(load_model(folder), 1)
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        model = load_model(folder, dtype)
        adapters = AdapterSet(model)
        adapters.add("some", adapter)
        with adapters.rows(["some"] * 4):
            found.append(model(IDS).logits())
    assert (found[0] - found[1]).norm() < 0.05 * found[0].norm()


@torch.inference_mode()
def test_what_is_removed_changes_nothing(folder: Path) -> None:
    model = load_model(folder)
    adapters = AdapterSet(model)
    before = {name for name, layer in model.named_modules() if layer._forward_hooks}
    adapters.add("some", random_adapter(model, 1))
    adapters.add("other", random_adapter(model, 2, only="q_proj"))
    adapters.remove("some")
    assert adapters.names == ("other",)
    watched = {name for name, layer in model.named_modules() if layer._forward_hooks}
    assert watched == before | {"model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"}
    with pytest.raises(UserError, match="'some'"), adapters.rows(["some"]):
        pass
    assert set(model.state_dict()) == set(load_model(folder).state_dict())


def test_the_gradient_reaches_an_adapter(folder: Path) -> None:
    model = load_model(folder)
    adapters = AdapterSet(model)
    adapters.add("some", random_adapter(model, 1))
    change = adapters["some"].layers["model.layers.0.mlp.down_proj"]
    change.a.requires_grad_()
    with adapters.rows([None, "some", None, None]):
        logits = model(IDS).logits()
    logits[0].sum().backward(retain_graph=True)
    assert change.a.grad is not None and not change.a.grad.any()
    logits[1].sum().backward()
    assert change.a.grad.any()


def test_names_are_checked(folder: Path) -> None:
    model = load_model(folder)
    adapters = AdapterSet(model)
    with pytest.raises(UserError, match="Loaded: none"):
        adapters.check("polite")
    adapters.add("polite", random_adapter(model, 1))
    with pytest.raises(UserError, match="loaded already"):
        adapters.add("polite", random_adapter(model, 1))
    with pytest.raises(UserError, match="polite"):
        adapters.remove("polit")


def test_an_adapter_of_another_model_is_refused(folder: Path, tiny_model: Callable[..., Path]) -> None:
    deeper = load_model(tiny_model("qwen2", num_hidden_layers=3))
    wider = load_model(tiny_model("qwen2", intermediate_size=128))
    mixture = load_model(
        tiny_model("qwen3_moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)
    )
    adapters = AdapterSet(load_model(folder))
    with pytest.raises(UserError, match=r"layers\.2.*another model"):
        adapters.add("deeper", random_adapter(deeper, 1))
    with pytest.raises(UserError, match=r"\(128, 4\).*\(96, 4\)"):
        adapters.add("wider", random_adapter(wider, 1, only="gate"))
    assert adapters.names == ()
    experts = "model.layers.0.mlp.experts.down_proj"
    with pytest.raises(UserError, match="changes experts"):
        AdapterSet(mixture).add(
            "experts", Adapter({experts: LowRank(torch.ones(2, 32), torch.ones(64, 2), 1.0)})
        )
