"""INT8 rounding keeps its promise, and a quantized model survives the disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.base.errors import UserError
from modelwright.base.files import read_json
from modelwright.compression.quantize import dequantize_rows, quantize, quantize_rows, quantized_linears
from modelwright.formats.huggingface import load_model, load_weights
from modelwright.formats.int8 import save_int8
from modelwright.model.quantized import Int8Linear, has_packed_kernel

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
    assert (dequantize_rows(quantized, scale)[weight == 0] == 0).all()


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
    expected = few.float() @ dequantize_rows(layer.weight, layer.weight_scale).T
    expected = expected if layer.bias is None else expected + layer.bias
    torch.testing.assert_close(layer(few).float(), expected, atol=tolerance * 10, rtol=tolerance * 2)


@pytest.mark.parametrize("architecture", ["qwen3", "llama", "qwen2"])
@pytest.mark.parametrize("tied", [True, False])
def test_saved_and_loaded_it_computes_what_the_rounded_weights_say(
    tiny_model: Callable[..., Path], tmp_path: Path, architecture: str, tied: bool
) -> None:
    folder = tiny_model(architecture, tie_word_embeddings=tied)
    original = load_model(folder).eval()
    made = quantize(original, torch.float32)
    save_int8(tmp_path / "int8", made, folder)
    loaded = load_model(tmp_path / "int8").eval()

    rounded = load_model(folder).eval()
    for name in quantized_linears(rounded):
        weight = rounded.get_parameter(f"{name}.weight")
        with torch.no_grad():
            weight.copy_(dequantize_rows(*quantize_rows(weight)))
    ids = torch.arange(20)[None]
    with torch.inference_mode():
        torch.testing.assert_close(loaded(ids).logits(), rounded(ids).logits(), atol=1e-4, rtol=1e-4)
        assert not torch.equal(loaded(ids).logits(), original(ids).logits())
    assert len(quantized_linears(original)) == 2 * 7


def test_the_folder_has_the_layout_of_compressed_tensors(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tiny_model("qwen3")
    save_int8(tmp_path / "int8", quantize(load_model(folder)), folder)
    described = read_json(tmp_path / "int8" / "config.json")["quantization_config"]
    assert described["config_groups"]["group_0"]["format"] == "int-quantized"
    assert (described["quant_method"], described["format"]) == ("compressed-tensors", "int-quantized")
    weights = load_weights(tmp_path / "int8")
    name = "model.layers.0.mlp.up_proj.weight"
    assert weights[name].dtype == torch.int8 and weights[f"{name}_scale"].shape == (96, 1)
    assert weights["model.embed_tokens.weight"].dtype == torch.bfloat16
    assert (tmp_path / "int8" / "model.safetensors").stat().st_size < 0.5 * (
        folder / "model.safetensors"
    ).stat().st_size
