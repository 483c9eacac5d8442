"""Changes that are trained: what they begin as, their gradients, and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from modelwright.base.errors import ConfigError, UserError
from modelwright.base.schema import Batch
from modelwright.compression.nf4 import nf4_linear
from modelwright.formats.frozen import load_frozen
from modelwright.formats.huggingface import load_model
from modelwright.kernels import low_rank
from modelwright.model import layers
from modelwright.model.adaptation import AdapterConfig, adapt, adapter_of, changed_layers
from modelwright.model.adapters import AdapterSet
from modelwright.model.low_rank import LowRankLinear
from modelwright.model.nf4 import SCALES
from modelwright.model.transformer import Transformer
from modelwright.objectives.next_token import NextToken

IDS = torch.randint(0, 90, (2, 24), generator=torch.Generator().manual_seed(5))
BATCH = Batch(ids=IDS, targets=IDS.roll(-1, 1), segments=torch.arange(24)[None].expand(2, 24) // 9)


@pytest.fixture(scope="module")
def folder(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model("qwen2")  # its projections have biases


def adapted(folder: Path, dtype: torch.dtype = torch.float32, **settings: object) -> Transformer:
    model = load_model(folder)
    model.compute_dtype = dtype
    adapt(model, AdapterConfig.model_validate({"rank": 4, **settings}), seed=3)
    return model


def trained(folder: Path, **settings: object) -> Transformer:
    """As if it had been: B, and DoRA's lengths, are no longer what they begin as."""
    model = adapted(folder, **settings)
    generator = torch.Generator().manual_seed(1)
    for layer in changed_layers(model).values():
        torch.nn.init.normal_(layer.b, std=0.1, generator=generator)
        if layer.magnitude is not None:
            torch.nn.init.uniform_(layer.magnitude, 0.5, 1.5, generator=generator)
    return model


def gradients(model: Transformer) -> dict[str, Tensor]:
    model.zero_grad()
    NextToken()(model.on_batch(BATCH), BATCH)[0].backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_an_untrained_change_changes_no_bit(folder: Path, dtype: torch.dtype, kind: str) -> None:
    base = load_model(folder)
    base.compute_dtype = dtype
    model = adapted(folder, dtype, kind=kind).train()
    assert torch.equal(model.on_batch(BATCH).logits(), base.on_batch(BATCH).logits())
    with torch.no_grad():  # other kernels
        assert torch.equal(model(IDS).logits(), base(IDS).logits())


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_gradients_are_those_of_plain_operations(
    folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trained(folder, kind=kind)
    found = gradients(model)
    monkeypatch.setattr(layers.low_rank, "together", lambda x, each: tuple(e.reference(x) for e in each))
    monkeypatch.setattr(LowRankLinear, "forward", LowRankLinear.reference)
    expected = gradients(model)
    assert found.keys() == expected.keys() == {n for n, p in model.named_parameters() if p.requires_grad}
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=2e-4, rtol=1e-4)


def test_products_with_a_change_equal_the_reference_in_fp64() -> None:
    generator = torch.Generator().manual_seed(2)
    x, w, a, b = (
        torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=grad)
        for shape, grad in (((3, 5, 8), True), ((6, 8), False), ((2, 8), True), ((6, 2), True))
    )
    torch.testing.assert_close(
        low_rank.adapted(x, [(lambda: w, None)], [(a, b, 0.7)])[0], low_rank.reference(x, w, a, b, 0.7)
    )
    bias = torch.randn(6, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(low_rank.frozen(x, lambda: w), x @ w.T)
    torch.testing.assert_close(low_rank.frozen(x, lambda: w, bias), x @ w.T + bias)
    assert torch.autograd.gradcheck(lambda x: low_rank.frozen(x, lambda: w, bias), x)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_bf16_gradients_point_where_those_of_fp32_do(folder: Path, kind: str) -> None:
    wide = gradients(trained(folder, kind=kind))
    narrow = gradients(trained(folder, dtype=torch.bfloat16, kind=kind))
    for name, gradient in wide.items():
        assert torch.cosine_similarity(gradient.flatten(), narrow[name].flatten(), dim=0) > 0.99, name


def kept_bytes(model: Transformer) -> int:
    """What a forward pass keeps for the backward pass, parameters and buffers not counted."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.on_batch(BATCH)
    return sum(kept.values())


def test_nothing_is_kept_for_weights_that_do_not_learn(folder: Path) -> None:
    everything = kept_bytes(load_model(folder).train())
    all_layers = kept_bytes(adapted(folder).train())
    one = kept_bytes(adapted(folder, layers=["model.layers.1.mlp.down_proj"]).train())
    assert all_layers < 1.05 * everything  # the inputs of the layers, and B's
    assert one < 0.35 * everything  # of the block below, and of what is before the layer, nothing at all


@pytest.mark.filterwarnings("ignore")  # the compiler looks at what warns when it is looked at
@pytest.mark.parametrize(("dropout", "compiled"), [(0.0, False), (0.1, False), (0.0, True)])
def test_weights_in_4_bits_are_not_kept_in_full(folder: Path, dropout: float, compiled: bool) -> None:
    """A compiler may keep the levels unpacked, of a byte each, and those of scales filled up to a whole
    group, and never what they stand for."""
    kept: list[int] = []
    for quantize in (None, nf4_linear):
        model = load_frozen(folder, torch.float32, quantize)
        adapt(model, AdapterConfig(rank=4, dropout=dropout), seed=3)
        model.train().before_step(1)
        layer = changed_layers(model)["model.layers.1.mlp.down_proj"]
        if compiled:
            torch.compiler.reset()
            layer.compile(dynamic=False, backend="aot_eager")
        kept.append(kept_bytes(model))
    assert kept[1] - kept[0] <= (layer.in_features * layer.out_features + SCALES if compiled else 0)


@pytest.mark.parametrize("settings", [{"kind": "lora"}, {"kind": "dora"}, {"stabilised": True}], ids=str)
def test_merged_equals_unmerged_and_the_adapter_beside_its_model(
    folder: Path, settings: dict[str, object]
) -> None:
    model = trained(folder, **settings)
    adapter = adapter_of(model)
    plain = load_model(folder)
    before = {name: weight.clone() for name, weight in plain.state_dict().items()}
    adapters = AdapterSet(plain)
    adapters.add("it", adapter)
    with torch.inference_mode(), adapters.rows(["it", "it"]):
        beside = plain(IDS).logits()
    adapters.remove("it")
    for name, change in adapter.layers.items():
        weight = plain.get_parameter(f"{name}.weight")
        weight.data = change.merged(weight.detach())
    with torch.inference_mode():
        found, expected = plain(IDS).logits(), model(IDS).logits()
    torch.testing.assert_close(found, expected, atol=5e-4, rtol=1e-4)
    torch.testing.assert_close(beside, expected, atol=5e-4, rtol=1e-4)
    name, change = next(iter(adapter.layers.items()))
    if change.magnitude is None:
        restored = change.unmerged(plain.get_parameter(f"{name}.weight"))
        torch.testing.assert_close(restored, before[f"{name}.weight"], atol=1e-6, rtol=1e-6)
    else:
        with pytest.raises(UserError, match="cannot be taken out"):
            change.unmerged(plain.get_parameter(f"{name}.weight"))


def test_scales_are_those_of_the_papers() -> None:
    assert AdapterConfig(rank=16, alpha=32).scale == 2
    assert AdapterConfig(rank=16, alpha=32, stabilised=True).scale == 8


def test_layers_are_chosen_by_patterns(folder: Path) -> None:
    model = adapted(folder, layers=["q_proj", "model.layers.1.mlp.*"])
    assert set(changed_layers(model)) == {
        *(f"model.layers.{n}.self_attn.q_proj" for n in (0, 1)),
        *(f"model.layers.1.mlp.{part}_proj" for part in ("gate", "up", "down")),
    }
    with pytest.raises(ConfigError, match=r"'query' fits no layer.*q_proj"):
        adapted(folder, layers=["query"])
    with pytest.raises(UserError, match="has no adapter"):
        adapter_of(load_model(folder))


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_training_goes_on_from_an_adapter(folder: Path, kind: str) -> None:
    first = trained(folder, kind=kind, rank=3)
    second = load_model(folder)
    adapt(second, AdapterConfig(rank=8), seed=9, begin=adapter_of(first))
    with torch.no_grad():
        assert torch.equal(second(IDS).logits(), first(IDS).logits())
    with pytest.raises(UserError, match="adapter of another model"):
        other = load_model(folder)
        adapter = adapter_of(first)
        next(iter(adapter.layers.values())).a.resize_(3, 5)
        adapt(other, AdapterConfig(), seed=9, begin=adapter)


def test_dropout_zeroes_what_a_is_given_and_only_in_training(folder: Path) -> None:
    model = trained(folder, dropout=0.5)
    with torch.no_grad():
        still = model.eval()(IDS).logits()
        assert torch.equal(model(IDS).logits(), still)
        model.train().before_step(7)
        drawn = [model(IDS).logits() for _ in range(2)]
        model.before_step(7)
        assert torch.equal(model(IDS).logits(), drawn[0])  # the step decides what is drawn
    assert not torch.equal(drawn[0], still) and not torch.equal(drawn[0], drawn[1])
