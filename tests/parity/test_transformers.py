"""Our network against transformers: same weights, same logits, in both directions."""

from __future__ import annotations

import pytest
import torch

from modelwright.formats.huggingface import load_model, save_model
from modelwright.model.config import ModelConfig
from modelwright.model.init import initialize
from modelwright.model.transformer import Transformer

transformers = pytest.importorskip("transformers", reason="the independent reader is not installed")

ARCHITECTURES = ("qwen3", "qwen2", "llama", "mistral")


def tiny(architecture: str, tied: bool, **changes: int | None) -> ModelConfig:
    settings = {
        "vocab_size": 96,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "rope_theta": 500_000.0,
    } | changes
    return ModelConfig(architecture=architecture, tie_word_embeddings=tied, **settings)


def perturb(model: torch.nn.Module) -> None:
    """Norms and biases start as ones and zeros, which would hide a swapped or forgotten one."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.empty_like(parameter).normal_(0, 0.1, generator=generator))


def max_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("tied", [True, False])
def test_transformers_reads_our_folder(architecture, tied, tmp_path):
    model = Transformer(tiny(architecture, tied))
    initialize(model, 3)
    perturb(model)
    save_model(tmp_path, model)
    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    ids = torch.randint(0, 96, (2, 17), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert max_difference(theirs(ids).logits, model(ids).logits()) < 1e-5


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("tied", [True, False])
def test_we_read_their_folder(architecture, tied, tmp_path):
    ours = tiny(architecture, tied, head_dim=16)
    kind = {"qwen3": "Qwen3", "qwen2": "Qwen2", "llama": "Llama", "mistral": "Mistral"}[architecture]
    settings = ours.model_dump(exclude={"architecture"})
    if architecture == "qwen2":
        settings |= {"head_dim": 8}  # Qwen2 has no head_dim of its own: hidden_size / heads
    theirs = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**settings))
    theirs = theirs.float().eval()
    perturb(theirs)
    theirs.save_pretrained(tmp_path)
    model = load_model(tmp_path)
    assert model.config.rope_theta == 500_000.0
    ids = torch.randint(0, 96, (2, 17), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert max_difference(theirs(ids).logits, model(ids).logits()) < 1e-5


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_agree(architecture, tmp_path):
    model = Transformer(tiny(architecture, tied=True))
    initialize(model, 3)
    save_model(tmp_path, model)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ids = torch.randint(0, 96, (2, 9), generator=torch.Generator().manual_seed(1))
    theirs(ids, labels=ids).loss.backward()
    logits = model(ids).logits()[:, :-1]
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(model.get_parameter(name).grad, parameter.grad, rtol=1e-4, atol=1e-6)
