"""What clients may say to the chat template of an imported model."""

from __future__ import annotations

import httpx
import pytest
from tests.tokenizer.families import FAMILIES

from modelwright.inference.engine import Engine
from modelwright.model.config import ModelConfig
from modelwright.model.transformer import Transformer
from modelwright.tokenizer.bpe import BPETokenizer

CHAT = "/v1/chat/completions"
MESSAGES = {"messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture(scope="module")
def thinking(tmp_path_factory, start):
    """A server whose model has the template of Qwen3."""
    tokenizer = BPETokenizer.load(FAMILIES["qwen-3"].write(tmp_path_factory.mktemp("qwen")))
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=256,
    )
    with start(Engine(Transformer(config), tokenizer)) as url, httpx.Client(base_url=url) as http:
        yield http, tokenizer


def test_variables_reach_the_template(thinking):
    http, tokenizer = thinking
    texts = []
    for variables in ({}, {"enable_thinking": True}, {"enable_thinking": False}):
        asked = MESSAGES | {"chat_template_kwargs": variables}
        ids = http.post("/tokenize", json=asked).json()["tokens"]
        texts.append(tokenizer.decode(ids))
        used = http.post(CHAT, json=asked | {"max_tokens": 1}).json()["usage"]
        assert used["prompt_tokens"] == len(ids)
    assert texts[0] == texts[1] and "<think>" not in texts[0] and "<think>" in texts[2]


@pytest.mark.parametrize(
    ("variables", "param", "words"),
    [
        ({"enable_thinkin": 1}, "chat_template_kwargs.enable_thinkin", "is not read by"),
        ({"messages": []}, "chat_template_kwargs.messages", "is set by the server"),
        ({"eos_token": "x"}, "chat_template_kwargs.eos_token", "is set by the server"),
        ({"enable_thinking": "x" * 10_000}, "chat_template_kwargs", "more than 10,000 characters"),
        ({"no name": 1}, "chat_template_kwargs", "pattern"),
        ({f"v{n}": 1 for n in range(17)}, "chat_template_kwargs", "at most 16"),
        ([], "chat_template_kwargs", "(received [])"),
    ],
)
def test_variables_are_bounded(thinking, variables, param, words):
    http, _ = thinking
    for path in (CHAT, "/tokenize"):
        answer = http.post(path, json=MESSAGES | {"chat_template_kwargs": variables})
        assert answer.status_code == 400, answer.text
        error = answer.json()["error"]
        assert error["param"].startswith(param) and words in error["message"]
