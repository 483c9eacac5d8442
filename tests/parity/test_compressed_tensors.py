"""Quantized folders against the package whose layout they use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from modelwright.compression.quantize import quantize
from modelwright.formats.huggingface import load_model, save_model
from modelwright.model.quantized import Scheme, pack, unpack


@pytest.mark.parametrize("scheme", [Scheme(bits=8), Scheme(bits=4)], ids=["int8", "int4"])
@pytest.mark.parametrize("architecture", ["qwen3", "llama", "qwen2"])
def test_transformers_with_compressed_tensors_computes_the_same(
    tiny_model: Callable[..., Path], tmp_path: Path, architecture: str, scheme: Scheme
) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("compressed_tensors")
    folder = tiny_model(architecture, tie_word_embeddings=architecture != "llama")
    save_model(tmp_path, quantize(load_model(folder), scheme), folder)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, local_files_only=True
    )
    ours = load_model(tmp_path)
    ids = torch.arange(40)[None]
    with torch.inference_mode():
        torch.testing.assert_close(theirs(ids).logits, ours(ids).logits(), atol=5e-5, rtol=1e-4)


def test_words_are_packed_as_theirs() -> None:
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32

    generator = torch.Generator().manual_seed(1)
    levels = torch.randint(-8, 8, (6, 64), dtype=torch.int8, generator=generator)
    assert torch.equal(pack(levels), pack_to_int32(levels, 4))
    assert torch.equal(unpack(pack_to_int32(levels, 4)), levels)
    assert torch.equal(unpack_from_int32(pack(levels), 4, levels.shape), levels)
