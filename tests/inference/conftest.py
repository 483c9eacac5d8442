"""Random tiny models and a tiny tokenizer: decoding must be right whatever the weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from modelwright.inference.engine import Engine
from modelwright.model.config import ModelConfig
from modelwright.model.transformer import Transformer
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.learn import learn

TEXT = ["The capital of France is Paris. Die Hauptstadt von Österreich ist Wien. 東京 is in Japan. " * 4]


@pytest.fixture(scope="session")
def tokenizer() -> BPETokenizer:
    return learn(TEXT, 320)


MIXTURE = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 24}


def tiny_model(architecture: str = "qwen3", vocab_size: int = 320, seed: int = 0) -> Transformer:
    config = ModelConfig(
        architecture=architecture,  # type: ignore[arg-type]
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=160,
        tie_word_embeddings=architecture != "llama",
        **(MIXTURE if architecture == "qwen3_moe" else {}),
    )
    torch.manual_seed(seed)
    model = Transformer(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.3)  # far from uniform, so that a wrong cache shows
    return model


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Transformer]:
    return tiny_model


@pytest.fixture(scope="session")
def model() -> Transformer:
    return tiny_model()


@pytest.fixture
def engine(model: Transformer, tokenizer: BPETokenizer) -> Engine:
    return Engine(model, tokenizer, max_slots=8)
