"""Model folders read: files are opened as rarely as memory allows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from modelwright.formats import huggingface
from modelwright.formats.huggingface import load_tensors, save_weights


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
