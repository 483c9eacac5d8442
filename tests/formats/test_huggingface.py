"""Model folders read: files are opened as rarely as memory allows."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from modelwright.base.errors import UserError
from modelwright.compression.nf4 import nf4_linear
from modelwright.formats import huggingface
from modelwright.formats.frozen import load_frozen
from modelwright.formats.huggingface import load_model, load_tensors, save_weights


@pytest.mark.parametrize(("together", "opened"), [(1 << 28, 2), (1, 41), (100, 21)])
def test_a_file_is_opened_anew_only_after_many_bytes(
    together: int, opened: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each opening parses the names of all tensors: one for each tensor is quadratic."""
    weights = {f"{number:02}": torch.full((15,), float(number)) for number in range(40)}  # of 60 bytes
    save_weights(tmp_path / "model.safetensors", weights)
    openings: list[Path] = []
    real = huggingface.safe_open

    def counted(path: Path, framework: str) -> object:
        openings.append(path)
        return real(path, framework=framework)

    monkeypatch.setattr(huggingface, "safe_open", counted)
    monkeypatch.setattr(huggingface, "_TOGETHER", together)
    read = load_tensors(tmp_path / "model.safetensors")
    assert read.keys() == weights.keys() and all(torch.equal(read[n], weights[n]) for n in weights)
    assert len(openings) == opened


UP = "model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize("load", [load_model, load_frozen, partial(load_frozen, quantize=nf4_linear)])
def test_weights_that_are_not_those_of_the_settings_are_refused_however_they_are_held(
    load: Callable[..., object], tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_model("qwen3"), tmp_path / "model"))
    weights = load_tensors(folder / "model.safetensors")
    load(folder, torch.float32)
    changed = {
        r"1 missing \['model.layers.0.mlp.up_proj.weight'\], 0 unknown": {UP: None},
        "0 missing .*, 1 unknown": {"model.layers.9.mlp.up_proj.weight": weights[UP].clone()},
        rf"{UP} has shape .*, config.json implies": {UP: weights[UP].T.clone()},
    }
    for words, change in changed.items():
        broken = {name: each for name, each in (weights | change).items() if each is not None}
        save_weights(folder / "model.safetensors", broken)
        with pytest.raises(UserError, match=words):
            load(folder, torch.float32)
