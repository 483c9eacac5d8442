"""Adapters as PEFT's folders: both ways, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.model.test_adapters import IDS, random_adapter, with_lengths

from modelwright.base.errors import DamagedFile, UserError
from modelwright.base.files import read_json, write_json
from modelwright.formats.huggingface import load_model, load_tensors, save_weights
from modelwright.formats.peft import load_adapter, save_adapter
from modelwright.model.adapters import Adapter, AdapterSet
from modelwright.model.transformer import Transformer


@pytest.fixture
def model(tiny_model: Callable[..., Path]) -> Transformer:
    return load_model(tiny_model("qwen3"))


@pytest.fixture
def saved(model: Transformer, tmp_path: Path) -> Path:
    save_adapter(tmp_path / "adapter", random_adapter(model, 1), model)
    return tmp_path / "adapter"


def equal(one: Adapter, other: Adapter) -> bool:
    assert one.layers.keys() == other.layers.keys()
    pairs = ((one.layers[name], other.layers[name]) for name in one.layers)
    return all(
        torch.equal(a.a, b.a) and torch.equal(a.b, b.b) and a.scale == pytest.approx(b.scale)
        for a, b in pairs
    )


def test_what_is_written_is_read(model: Transformer, saved: Path, tmp_path: Path) -> None:
    assert equal(load_adapter(saved), random_adapter(model, 1))
    assert read_json(saved / "adapter_config.json")["target_modules"] == sorted(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    )
    low, high = (
        random_adapter(model, 1, rank=2, only="layers.0"),
        random_adapter(model, 2, rank=6, only="1.mlp"),
    )
    mixed = Adapter({**low.layers, **high.layers})
    save_adapter(tmp_path / "mixed", mixed, model)
    assert equal(load_adapter(tmp_path / "mixed"), mixed)
    assert (
        "model.layers.1.mlp.up_proj"
        in read_json(tmp_path / "mixed" / "adapter_config.json")["target_modules"]
    )


THEIR_WARNING = (
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"  # peft asks transformers for it
)


@pytest.mark.filterwarnings(THEIR_WARNING)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"up_proj": 3}, "alpha_pattern": {"layers.1.mlp.up_proj": 5}},
        {"use_dora": True},
    ],
    ids=str,
)
def test_peft_and_we_agree_on_its_adapters(
    tiny_model: Callable[..., Path], tmp_path: Path, settings: dict[str, Any]
) -> None:
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    folder = tiny_model("qwen3")
    base = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=["q_proj", "up_proj"], init_lora_weights=False, **settings
    )
    theirs = peft.get_peft_model(base, config).eval()
    for name, parameter in theirs.named_parameters():
        if "magnitude" in name:  # as if it had been trained
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    theirs.save_pretrained(tmp_path)
    ours = load_model(folder)
    adapters = AdapterSet(ours)
    adapters.add("theirs", load_adapter(tmp_path))
    with torch.inference_mode(), adapters.rows(["theirs"] * 4):
        torch.testing.assert_close(ours(IDS).logits(), theirs(IDS).logits, atol=5e-5, rtol=1e-4)


@pytest.mark.filterwarnings(THEIR_WARNING)
@pytest.mark.parametrize("dora", [False, True], ids=["LoRA", "DoRA"])
def test_peft_reads_ours(tiny_model: Callable[..., Path], tmp_path: Path, dora: bool) -> None:
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    folder = tiny_model("qwen3")
    model = load_model(folder)
    low, high = (
        random_adapter(model, 1, rank=2, only="layers.0"),
        random_adapter(model, 2, rank=6, only="1.mlp"),
    )
    adapter = Adapter({**low.layers, **high.layers})
    if dora:
        adapter = with_lengths(adapter, 3)
    save_adapter(tmp_path, adapter, model, base=str(folder))
    base = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    adapters = AdapterSet(model)
    adapters.add("ours", adapter)
    with torch.inference_mode(), adapters.rows(["ours"] * 4):
        torch.testing.assert_close(model(IDS).logits(), theirs(IDS).logits, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"peft_type": "IA3"}, "kind IA3"),
        ({"use_dora": True}, "only lora_A/B, where .* use_dora: True"),
        ({"modules_to_save": ["lm_head"]}, "lm_head was trained, and its rows are missing"),
        ({"bias": "lora_only"}, "bias: lora_only"),
        ({"r": 5}, r"ranks \(4, 4\).*says 5"),
        ({"lora_alpha": None}, "lora_alpha of .* expected a positive number"),
        ({"rank_pattern": {"(": 3}}, "no regular expression"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_what_cannot_be_honoured_is_refused(saved: Path, setting: dict[str, Any], message: str) -> None:
    write_json(saved / "adapter_config.json", {**read_json(saved / "adapter_config.json"), **setting})
    with pytest.raises((UserError, DamagedFile), match=message):
        load_adapter(saved)


def test_tensors_that_are_no_a_and_b_are_refused(saved: Path) -> None:
    tensors = load_tensors(saved / "adapter_model.safetensors")
    more = {**tensors, "base_model.model.model.norm.weight": torch.ones(2)}
    save_weights(saved / "adapter_model.safetensors", more)
    with pytest.raises(UserError, match=r"model\.norm"):
        load_adapter(saved)
    half = {name: tensor for name, tensor in tensors.items() if "lora_A" in name}
    save_weights(saved / "adapter_model.safetensors", half)
    with pytest.raises(DamagedFile, match="there is only lora_A"):
        load_adapter(saved)
    save_weights(saved / "adapter_model.safetensors", {})
    with pytest.raises(DamagedFile, match="holds no tensors"):
        load_adapter(saved)
    (saved / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match="has no adapter_model"):
        load_adapter(saved)
