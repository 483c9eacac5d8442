"""A server on a port of its own, with a random tiny model behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import openai
import pytest
import torch
from tests.server.running import running

from modelwright.inference.engine import Engine
from modelwright.model.config import ModelConfig
from modelwright.model.transformer import Transformer
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.learn import learn


@pytest.fixture(scope="session")
def tokenizer() -> BPETokenizer:
    return learn(["The capital of France is Paris. Die Hauptstadt von Österreich ist Wien. " * 4], 320)


@pytest.fixture(scope="session")
def model() -> Transformer:
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=4096,
    )
    model = Transformer(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.3)
    return model


@pytest.fixture
def engine(model: Transformer, tokenizer: BPETokenizer) -> Engine:
    """The same engine as the server's, to compare with."""
    return Engine(model, tokenizer, max_slots=8)


@pytest.fixture(scope="session")
def start() -> Callable[..., object]:
    return running


@pytest.fixture(scope="session")
def address(model: Transformer, tokenizer: BPETokenizer) -> Iterator[str]:
    with running(Engine(model, tokenizer, max_slots=8), queue_limit=64, body_limit=20_000) as url:
        yield url


@pytest.fixture(scope="session")
def client(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{address}/v1", api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture(scope="session")
def http(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address) as client:
        yield client
