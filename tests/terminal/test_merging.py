"""`modelwright merge`: into a model, out of it again, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.model.test_adapters import IDS, random_adapter, with_lengths

from modelwright.base.errors import UserError
from modelwright.cli import main
from modelwright.compression.quantize import quantize
from modelwright.formats.huggingface import load_model, save_model
from modelwright.formats.peft import save_adapter
from modelwright.model.adapters import AdapterSet
from modelwright.terminal.merging import merge_adapter


@pytest.mark.parametrize("dora", [False, True], ids=["LoRA", "DoRA"])
def test_an_adapter_goes_into_its_model_and_out_again(
    tiny_model: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], dora: bool
) -> None:
    base = tiny_model("qwen2")
    model = load_model(base)
    adapter = random_adapter(model, 1)
    adapter = with_lengths(adapter, 2) if dora else adapter
    save_adapter(tmp_path / "adapter", adapter, model)
    assert main(["merge", str(base), str(tmp_path / "adapter"), "-o", str(tmp_path / "merged")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "merged")
    adapters = AdapterSet(model)
    adapters.add("it", adapter)
    with torch.inference_mode(), adapters.rows(["it"] * len(IDS)):
        expected = model(IDS).logits()
    with torch.inference_mode():
        found = load_model(tmp_path / "merged")(IDS).logits()
    torch.testing.assert_close(found, expected, atol=5e-4, rtol=1e-4)
    given = [str(tmp_path / name) for name in ("merged", "adapter", "again")]
    assert main(["merge", *given[:2], "-o", given[2], "--undo"]) == (1 if dora else 0)
    if not dora:
        again = load_model(tmp_path / "again").state_dict()
        for name, weight in load_model(base).state_dict().items():
            torch.testing.assert_close(again[name], weight, atol=1e-6, rtol=1e-6)


def test_what_cannot_be_merged_is_refused(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    base = tiny_model("qwen2")
    model = load_model(base)
    save_adapter(tmp_path / "adapter", random_adapter(model, 1), model)
    with pytest.raises(UserError, match="is there already"):
        merge_adapter(base, tmp_path / "adapter", tmp_path)
    with pytest.raises(UserError, match="adapter of another model"):
        merge_adapter(tiny_model("qwen3", hidden_size=32), tmp_path / "adapter", tmp_path / "made")
    save_model(tmp_path / "int8", quantize(model), base)
    with pytest.raises(UserError, match="rounding would lose"):
        merge_adapter(tmp_path / "int8", tmp_path / "adapter", tmp_path / "made")
    assert not (tmp_path / "made").exists()
