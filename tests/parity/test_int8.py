"""INT8 folders against the package whose layout they use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from modelwright.compression.quantize import quantize
from modelwright.formats.huggingface import load_model
from modelwright.formats.int8 import save_int8


@pytest.mark.parametrize("architecture", ["qwen3", "llama", "qwen2"])
def test_transformers_with_compressed_tensors_computes_the_same(
    tiny_model: Callable[..., Path], tmp_path: Path, architecture: str
) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("compressed_tensors")
    folder = tiny_model(architecture, tie_word_embeddings=architecture != "llama")
    save_int8(tmp_path / "int8", quantize(load_model(folder)), folder)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "int8", dtype=torch.float32, local_files_only=True
    )
    ours = load_model(tmp_path / "int8")
    ids = torch.arange(40)[None]
    with torch.inference_mode():
        torch.testing.assert_close(theirs(ids).logits, ours(ids).logits(), atol=5e-5, rtol=1e-4)
