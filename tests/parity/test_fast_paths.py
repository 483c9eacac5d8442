"""Nothing that a family has is lost on a fast path: the compiled kernels and the compiled step give what the
plain ones give, or leave the model to those."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from modelwright.base.schema import Batch
from modelwright.inference.compiled import CompiledRunner, runner_of
from modelwright.inference.runner import Piece
from modelwright.kernels import native
from modelwright.model.adapters import AdapterSet
from modelwright.model.config import ModelConfig
from modelwright.model.init import initialize
from modelwright.model.transformer import Transformer

LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
FAMILIES: Mapping[str, dict[str, Any]] = {
    "llama": {"architecture": "llama", "rope_scaling": LLAMA3},
    "llama with biases": {"architecture": "llama", "attention_bias": True, "mlp_bias": True},
    "mistral": {"architecture": "mistral", "sliding_window": 7, "tie_word_embeddings": False},
    "qwen2": {"architecture": "qwen2", "rope_scaling": YARN},
    "qwen3 with biases": {"architecture": "qwen3", "attention_bias": True},
    "gemma": {"architecture": "gemma"},
}
IDS = torch.randint(0, 96, (2, 64), generator=torch.Generator().manual_seed(1))


def model_of(family: str, dtype: torch.dtype) -> Transformer:
    config = ModelConfig(
        vocab_size=96, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, max_position_embeddings=256, **FAMILIES[family],
    )  # fmt: skip
    model = Transformer(config, dtype)
    initialize(model, 3)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.empty_like(parameter).normal_(0, 0.1, generator=generator))
    return model


def gradients(model: Transformer) -> dict[str, torch.Tensor]:
    segments = (torch.arange(64) >= 40).long().expand(2, 64)
    batch = Batch(ids=IDS, targets=IDS.roll(-1, 1), segments=segments)
    logits = model.on_batch(batch).logits()
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_training(family: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    if native.library(dtype) is None:
        pytest.skip("no compiler: there is only the plain path")
    model = model_of(family, dtype)
    fast = gradients(model)
    monkeypatch.setattr(native, "plain", lambda *tensors: False)
    plain = gradients(model)
    tolerance = 1e-4 if dtype == torch.float32 else 0.05
    for name, gradient in plain.items():
        assert (fast[name] - gradient).norm() <= tolerance * gradient.norm() + 1e-7, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_answering(family: str, dtype: torch.dtype) -> None:
    model = model_of(family, dtype).to(dtype)
    fast = runner_of(model, 16, "auto", AdapterSet(model), head="auto", use_compiled=True)
    exact = model_of(family, torch.float32)
    exact.load_state_dict(model.state_dict())
    ids = IDS[0].tolist()
    got = [fast.logits([Piece(ids[:50], 0, [3, 5, 7, 2], 50)])]
    got += [fast.logits([Piece([ids[n]], n, [3, 5, 7, 2], 1)]) for n in range(50, 64)]
    with torch.no_grad():
        wanted = exact(IDS[:1]).logits()[0]
    error = (torch.cat(got) - wanted).abs().max() / wanted.abs().max()
    assert error < (1e-5 if dtype == torch.float32 else 0.05)
    if isinstance(fast, CompiledRunner) and dtype == torch.float32:
        quicker = torch.cat(got).argmax(-1)
        assert torch.equal(quicker, wanted.argmax(-1))
