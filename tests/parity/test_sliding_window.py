"""Windows against transformers: Mistral's, and Qwen's where all layers have one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.parity.test_transformers import max_difference, perturb, tiny

from modelwright.formats.huggingface import load_model, save_model
from modelwright.model.init import initialize
from modelwright.model.transformer import Transformer

transformers = pytest.importorskip("transformers", reason="the independent reader is not installed")

IDS = torch.randint(0, 96, (2, 33), generator=torch.Generator().manual_seed(1))
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}


@pytest.mark.parametrize("window", [None, 1, 6, 64])
@pytest.mark.parametrize("architecture", ["mistral", "qwen3", "qwen2", "qwen3_moe"])
def test_transformers_reads_our_folder(architecture: str, window: int | None, tmp_path: Path) -> None:
    experts = EXPERTS if architecture == "qwen3_moe" else {}
    model = Transformer(tiny(architecture, tied=False, sliding_window=window, **experts))
    initialize(model, 3)
    perturb(model)
    save_model(tmp_path, model)
    assert load_model(tmp_path).config == model.config
    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    theirs(IDS, labels=IDS).loss.backward()
    logits = model(IDS).logits()
    assert max_difference(theirs(IDS).logits, logits) < 1e-5
    torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten()).backward()
    name = "model.layers.0.self_attn.k_proj.weight"
    torch.testing.assert_close(
        model.get_parameter(name).grad, theirs.get_parameter(name).grad, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("window", [None, 6])
def test_we_read_their_mistral(window: int | None, tmp_path: Path) -> None:
    settings = tiny("mistral", tied=False, sliding_window=window).model_dump(exclude={"architecture"})
    theirs = transformers.MistralForCausalLM(transformers.MistralConfig(**settings)).float().eval()
    perturb(theirs)
    theirs.save_pretrained(tmp_path)
    model = load_model(tmp_path)
    assert model.config.sliding_window == window
    with torch.no_grad():
        assert max_difference(theirs(IDS).logits, model(IDS).logits()) < 1e-5
