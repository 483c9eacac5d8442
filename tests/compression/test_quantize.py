"""Rounding keeps its promise, and a quantized model survives the disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.base.errors import UserError
from modelwright.base.files import read_json, write_json
from modelwright.compression.quantize import (
    quantize,
    quantize_groups,
    quantize_rows,
    quantized_linears,
)
from modelwright.formats.huggingface import load_model, load_tensors, save_model
from modelwright.model.moe import StackedLinear
from modelwright.model.quantized import (
    Int4Linear,
    Int4StackedLinear,
    Int8Linear,
    Int8StackedLinear,
    Scheme,
    dequantize,
    has_packed_kernel,
    pack,
    packed_tensors,
    unpack,
)

rows = st.integers(1, 5)
floats = st.floats(-(2.0**100), 2.0**100, width=32)


@given(st.data(), rows, st.integers(1, 9))
@settings(deadline=None, max_examples=60)
def test_every_weight_is_off_by_at_most_half_a_scale(data: st.DataObject, out: int, width: int) -> None:
    values = data.draw(st.lists(floats, min_size=out * width, max_size=out * width))
    weight = torch.tensor(values).view(out, width)
    quantized, scale = quantize_rows(weight)
    error = (weight.double() - quantized.double() * scale.double()).abs()
    assert (error <= scale.double() * 0.5 * (1 + 1e-6)).all()
    assert quantized.dtype == torch.int8 and int(quantized.int().abs().max()) <= 127
    assert (dequantize(quantized, scale)[weight == 0] == 0).all()


def test_the_bound_is_reached_and_scales_are_per_row() -> None:
    weight = torch.tensor([[127.0, 0.5, -126.5], [1.27, 0.01, 0.0], [0.0, 0.0, 0.0]])
    quantized, scale = quantize_rows(weight)
    assert quantized.tolist() == [[127, 0, -126], [127, 1, 0], [0, 0, 0]]
    torch.testing.assert_close(scale.flatten(), torch.tensor([1.0, 0.01, 1.0]))


def test_a_diverged_model_is_refused() -> None:
    with pytest.raises(UserError, match="not finite"):
        quantize_rows(torch.tensor([[1.0, float("nan")]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
def test_the_packed_kernel_agrees_with_the_plain_one(dtype: torch.dtype, bias: bool) -> None:
    if not has_packed_kernel(dtype):
        pytest.skip("this torch has no packed int8 product")
    layer = Int8Linear(64, 48, bias)
    layer.weight, layer.weight_scale = quantize_rows(
        torch.randn(48, 64, generator=torch.Generator().manual_seed(1))
    )
    if layer.bias is not None:
        layer.bias = torch.linspace(-1, 1, 48)
    few = torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(2)).to(dtype)
    many = few.repeat(4, 1, 1)  # enough rows for the other path
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(layer(few), layer(many)[:2], atol=tolerance * 4, rtol=tolerance)
    expected = few.float() @ dequantize(layer.weight, layer.weight_scale).T
    expected = expected if layer.bias is None else expected + layer.bias
    torch.testing.assert_close(layer(few).float(), expected, atol=tolerance * 10, rtol=tolerance * 2)


# --- 4 bits


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


@given(st.data(), rows, st.sampled_from([32, 64]))
@settings(deadline=None, max_examples=40)
def test_in_groups_the_mean_squared_error_is_bounded(data: st.DataObject, out: int, width: int) -> None:
    values = data.draw(st.lists(floats, min_size=out * width, max_size=out * width))
    weight = torch.tensor(values).view(out, width)
    levels, scales = quantize_groups(weight, 32)
    assert levels.dtype == torch.int8 and int(levels.min()) >= -8 and int(levels.max()) <= 7
    groups = weight.double().view(-1, 32)
    error = (weight - dequantize(levels, scales)).double().view(-1, 32).square().mean(-1).sqrt()
    bound = groups.abs().amax(-1) / 14 * (1 + 2**-7)  # the scale itself is rounded to bf16, by up to 2^-9
    assert (error <= bound + 1e-38).all()
    assert (dequantize(levels, scales)[weight == 0] == 0).all()


def test_a_normal_weight_loses_less_than_with_q4_0() -> None:
    weight = normal(256, 1024)
    theirs = weight.view(-1, 32)
    largest = theirs.gather(1, theirs.abs().argmax(-1, keepdim=True))
    scale = (largest / -8).half().float()  # how GGUF's Q4_0 is defined
    theirs = ((theirs / scale).round().clamp(-8, 7) * scale).view_as(weight)
    ours = dequantize(*quantize_groups(weight, 32))
    relative = [float((weight - made).norm() / weight.norm()) for made in (ours, theirs)]
    assert relative == pytest.approx([0.0810, 0.0859], abs=4e-4)


def test_no_scale_nearby_is_better() -> None:
    """The search finds nearly what trying every scale finds."""
    weight = normal(200, 32)
    levels, scales = quantize_groups(weight, 32)
    found = (weight - dequantize(levels, scales)).square().sum(-1)
    every = torch.linspace(0.05, 0.25, 400) * weight.abs().amax(-1, keepdim=True)
    tried = torch.cat((every, -every), dim=1).bfloat16().float().unsqueeze(-1)
    rounded = (weight.unsqueeze(1) / tried).round().clamp(-8, 7) * tried
    best = (weight.unsqueeze(1) - rounded).square().sum(-1).amin(-1)
    assert (found >= best * 0.97).all() and float(found.sum() / best.sum()) < 1.01


@pytest.mark.parametrize("shape", [(3, 64), (2, 3, 32)])
def test_what_is_packed_is_unpacked(shape: tuple[int, ...]) -> None:
    levels = torch.randint(-8, 8, shape, dtype=torch.int8, generator=torch.Generator().manual_seed(2))
    assert pack(levels).shape == (*shape[:-1], shape[-1] // 8) and pack(levels).dtype == torch.int32
    assert torch.equal(unpack(pack(levels)), levels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_in_4_bits_multiply_by_their_rounded_weights(dtype: torch.dtype) -> None:
    weight, x = normal(48, 64), normal(2, 3, 64).to(dtype)
    layer = Int4Linear(64, 48, group=32, bias=True)
    layer.load_state_dict(
        {**packed_tensors(*quantize_groups(weight, 32)), "bias": torch.linspace(-1, 1, 48)}, assign=True
    )
    assert layer.bias is not None
    rounded = dequantize(layer.levels(), layer.scales())
    torch.testing.assert_close(rounded, dequantize(*quantize_groups(weight, 32)))
    expected = x @ rounded.to(dtype).T + layer.bias.to(dtype)
    torch.testing.assert_close(layer(x), expected, atol=1e-5 if dtype == torch.float32 else 0.1, rtol=2e-2)


@pytest.mark.parametrize("bits", [4, 8])
def test_stacked_layers_multiply_by_each_experts_rounded_weights(bits: int) -> None:
    plain = StackedLinear(3, 64, 32)
    sizes = torch.tensor([2, 0, 3])
    if bits == 4:
        layer = Int4StackedLinear(32, 3, 32, 64)
        layer.load_state_dict(packed_tensors(*quantize_groups(normal(3, 32, 64), 32)), assign=True)
    else:
        layer = Int8StackedLinear(3, 32, 64)
        layer.weight, layer.weight_scale = quantize_rows(normal(3, 32, 64))
    with torch.no_grad():
        plain.weight.copy_(dequantize(layer.levels(), layer.scales()))
        torch.testing.assert_close(layer(normal(5, 64), sizes), plain(normal(5, 64), sizes))


def test_a_width_that_groups_do_not_divide_is_refused() -> None:
    with pytest.raises(UserError, match="48 inputs"):
        quantize_groups(torch.ones(2, 48), 32)


# --- the folder

SCHEMES = [Scheme(bits=8), Scheme(bits=4), Scheme(bits=4, group=64)]


@pytest.mark.parametrize("scheme", SCHEMES, ids=["int8", "int4", "int4-64"])
@pytest.mark.parametrize("architecture", ["qwen3", "llama", "qwen2"])
@pytest.mark.parametrize("tied", [True, False])
def test_saved_and_loaded_it_computes_what_the_rounded_weights_say(
    tiny_model: Callable[..., Path], tmp_path: Path, architecture: str, tied: bool, scheme: Scheme
) -> None:
    folder = tiny_model(architecture, tie_word_embeddings=tied, intermediate_size=128)
    original = load_model(folder).eval()
    made = quantize(original, scheme, torch.float32)
    save_model(tmp_path, made, folder)
    loaded = load_model(tmp_path).eval()

    rounded = load_model(folder).eval()
    for name in quantized_linears(rounded):
        weight = rounded.get_parameter(f"{name}.weight")
        parts = quantize_rows(weight) if scheme.bits == 8 else quantize_groups(weight, scheme.group)
        with torch.no_grad():
            weight.copy_(dequantize(*parts))
    ids = torch.arange(20)[None]
    with torch.inference_mode():
        torch.testing.assert_close(loaded(ids).logits(), rounded(ids).logits(), atol=1e-4, rtol=1e-4)
        assert not torch.equal(loaded(ids).logits(), original(ids).logits())
    assert len(quantized_linears(original)) == 2 * 7


LAYOUTS = [
    (
        Scheme(bits=8),
        "int-quantized",
        {"weight": (torch.int8, (96, 64)), "weight_scale": (torch.float32, (96, 1))},
    ),
    (
        Scheme(bits=4),
        "pack-quantized",
        {
            "weight_packed": (torch.int32, (96, 8)),
            "weight_scale": (torch.bfloat16, (96, 2)),
            "weight_shape": (torch.int64, (2,)),
        },
    ),
]


@pytest.mark.parametrize(("scheme", "layout", "stored"), LAYOUTS, ids=["int8", "int4"])
def test_the_folder_has_the_layout_of_compressed_tensors(
    tiny_model: Callable[..., Path],
    tmp_path: Path,
    scheme: Scheme,
    layout: str,
    stored: dict[str, tuple[torch.dtype, tuple[int, ...]]],
) -> None:
    folder = tiny_model("qwen3")
    save_model(tmp_path, quantize(load_model(folder), scheme), folder)
    described = read_json(tmp_path / "config.json")["quantization_config"]
    assert described["config_groups"]["group_0"]["format"] == layout
    assert (described["quant_method"], described["format"]) == ("compressed-tensors", layout)
    weights = load_tensors(tmp_path / "model.safetensors")
    layer = "model.layers.0.mlp.up_proj."
    found = {name.removeprefix(layer): tensor for name, tensor in weights.items() if name.startswith(layer)}
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in found.items()} == stored
    assert weights["model.embed_tokens.weight"].dtype == torch.bfloat16
    sizes = [(each / "model.safetensors").stat().st_size for each in (tmp_path, folder)]
    assert sizes[0] < 0.5 * sizes[1]


@pytest.mark.parametrize(
    "change",
    [{"symmetric": False}, {"num_bits": 3}, {"group_size": 20}, {"strategy": "tensor"}, {"type": "float"}],
    ids=str,
)
def test_other_kinds_of_integers_are_refused(
    tiny_model: Callable[..., Path], tmp_path: Path, change: dict[str, object]
) -> None:
    folder = tiny_model("qwen3")
    save_model(tmp_path, quantize(load_model(folder), Scheme(bits=4)), folder)
    config = read_json(tmp_path / "config.json")
    config["quantization_config"]["config_groups"]["group_0"]["weights"] |= change
    write_json(tmp_path / "config.json", config)
    with pytest.raises(UserError, match="symmetric integers are read"):
        load_model(tmp_path)
