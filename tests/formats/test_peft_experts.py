"""Changes of experts in PEFT's folders, in both of its forms: peft judges what we read and write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.formats.test_peft import THEIR_WARNING
from tests.model.test_adapters import IDS
from tests.model.test_stacks import EXPERTS

from modelwright.base.errors import DamagedFile, UserError
from modelwright.base.files import read_json, write_json
from modelwright.formats.huggingface import load_model, load_tensors, save_weights
from modelwright.formats.peft import load_adapter, save_adapter
from modelwright.model.adapters import Adapter, LowRank, changeable
from modelwright.terminal.merging import merge_adapter

UNMATCHED = "ignore:The following (rank|alpha)_pattern keys did not match:RuntimeWarning"
"""Peft looks among modules for what it then finds among parameters."""


@pytest.fixture
def base(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model("qwen3_moe", **EXPERTS)


def random_changes(base: Path, *kinds: str, rank: int = 4) -> Adapter:
    generator = torch.Generator().manual_seed(5)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.3

    shapes = changeable(load_model(base))
    chosen = {name: shape for name, shape in shapes.items() if any(kind in name for kind in kinds)}
    return Adapter(
        {
            name: LowRank(normal(*stack, rank, ins), normal(*stack, outs, rank), 2.0 / rank)
            for name, (*stack, outs, ins) in chosen.items()
        }
    )


KINDS = [("experts",), ("experts", "q_proj", "o_proj"), ("layers.1.mlp.experts",)]


@pytest.mark.filterwarnings(THEIR_WARNING, "ignore::UserWarning", UNMATCHED)
@pytest.mark.parametrize("kinds", KINDS, ids=str)
def test_peft_reads_what_we_write(base: Path, tmp_path: Path, kinds: tuple[str, ...]) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    adapter = random_changes(base, *kinds)
    save_adapter(tmp_path / "adapter", adapter, load_model(base), base=str(base))
    found = load_adapter(tmp_path / "adapter")
    assert found.layers.keys() == adapter.layers.keys()
    for name, change in adapter.layers.items():
        assert torch.equal(found.layers[name].a, change.a) and torch.equal(found.layers[name].b, change.b)
        assert found.layers[name].scale == pytest.approx(change.scale)
    merge_adapter(base, tmp_path / "adapter", tmp_path / "merged")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").eval()
    with torch.inference_mode():
        logits = load_model(tmp_path / "merged")(IDS).logits()
        assert not torch.allclose(logits, load_model(base)(IDS).logits(), atol=0.1)
        torch.testing.assert_close(logits, theirs(IDS).logits, atol=1e-3, rtol=1e-3)
    merge_adapter(tmp_path / "merged", tmp_path / "adapter", tmp_path / "again", undo=True)
    with torch.inference_mode():
        undone = load_model(tmp_path / "again")(IDS).logits()
        torch.testing.assert_close(undone, load_model(base)(IDS).logits(), atol=1e-3, rtol=1e-3)


@pytest.mark.filterwarnings(THEIR_WARNING, "ignore::UserWarning", UNMATCHED)
@pytest.mark.parametrize("settings", [{}, {"rank_pattern": {"down_proj": 3}}, {"use_rslora": True}], ids=str)
def test_we_read_what_peft_writes(base: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    torch.manual_seed(3)
    parameters = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    config = peft.LoraConfig(
        r=2,
        lora_alpha=6,
        target_modules=["q_proj"],
        target_parameters=parameters,
        init_lora_weights=False,
        **settings,
    )
    theirs = peft.get_peft_model(theirs, config).eval()
    theirs.save_pretrained(tmp_path / "adapter")
    merge_adapter(base, tmp_path / "adapter", tmp_path / "merged")
    with torch.inference_mode():
        logits = load_model(tmp_path / "merged")(IDS).logits()
        torch.testing.assert_close(logits, theirs(IDS).logits, atol=1e-3, rtol=1e-3)


def test_what_peft_has_no_form_for_is_not_written(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    mixed = tiny_model("qwen3_moe", **EXPERTS, mlp_only_layers=(0,))
    whole = random_changes(mixed, "experts")
    half = Adapter({name: each for name, each in whole.layers.items() if "up_proj" not in name})
    without = Adapter({name: each for name, each in whole.layers.items() if "down_proj" not in name})
    first = next(iter(whole.layers))
    uneven = Adapter({**whole.layers, first: replace(whole.layers[first], scale=9.0)})
    dense = random_changes(mixed, "mlp")
    for adapter, message in (
        (half, "gate_proj without up_proj"),
        (without, "in other layers than down_proj"),
        (uneven, "several ranks"),
        (dense, r"experts and the dense model\.layers\.0\.mlp"),
    ):
        with pytest.raises(UserError, match=message):
            save_adapter(tmp_path, adapter, load_model(mixed))


def test_experts_that_are_missing_or_differ_are_refused(base: Path, tmp_path: Path) -> None:
    save_adapter(tmp_path, random_changes(base, "experts"), load_model(base))
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_tensors(file)
    save_weights(file, {name: each for name, each in tensors.items() if ".experts.2.gate_proj" not in name})
    with pytest.raises(UserError, match=r"layers\.0\.mlp\.experts\.gate_proj.*expert 2 has none"):
        load_adapter(tmp_path)
    less = {
        n: (each[:3] if "lora_A" in n else each[:, :3]) if ".experts.1.up_proj" in n else each
        for n, each in tensors.items()
    }
    save_weights(file, less)
    config = read_json(tmp_path / "adapter_config.json")
    write_json(tmp_path / "adapter_config.json", {**config, "rank_pattern": {r"experts\.1\.up_proj": 3}})
    with pytest.raises(UserError, match="they differ in rank or scale"):
        load_adapter(tmp_path)
    write_json(tmp_path / "adapter_config.json", config)
    one = "base_model.model.model.layers.0.mlp.experts"
    save_weights(file, {f"{one}.lora_A.weight": torch.ones(16, 8), f"{one}.lora_B.weight": torch.ones(8, 16)})
    with pytest.raises(UserError, match="changed together or not at all"):
        load_adapter(tmp_path)
    save_weights(file, {f"{one}.lora_A.weight": torch.ones(16, 8)})
    with pytest.raises(DamagedFile, match="there is only lora_A"):
        load_adapter(tmp_path)


def test_experts_of_another_model_are_refused(
    tiny_model: Callable[..., Path], base: Path, tmp_path: Path
) -> None:
    save_adapter(tmp_path / "adapter", random_changes(base, "experts"), load_model(base))
    other = tiny_model("qwen3_moe", **EXPERTS | {"num_experts": 3})
    with pytest.raises(UserError, match="it is an adapter of another model"):
        merge_adapter(other, tmp_path / "adapter", tmp_path / "merged")
