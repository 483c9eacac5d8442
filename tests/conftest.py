"""What tests of every floor share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from modelwright.formats.huggingface import save_model
from modelwright.kernels import native
from modelwright.model.config import ModelConfig
from modelwright.model.transformer import Transformer
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.learn import learn

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real texts beside the checkout; tests that need them skip where they are absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real data at {SHARED_DATA}")
    return SHARED_DATA


SAMPLE_TEXT = (
    """The capital of France is Paris. The capital of Japan is Tokyo.
def add(a, b):\n    return a + b  # 1234 + 5678 = 6912
Москва и Київ. 東京は日本の首都です。 L'été, naïve café. 👍 It's what we've got, isn't it?
"""
    * 4
)
"""Enough to learn a vocabulary of some hundred tokens with merges in several scripts."""


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer folder with about 400 tokens."""
    folder = tmp_path_factory.mktemp("tokenizer")
    learn(SAMPLE_TEXT.splitlines(), vocab_size=400).save(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Path) -> Callable[..., Path]:
    """`tiny_model("llama", tie_word_embeddings=False)` -> a Hugging Face folder with a random model.

    Its weights are large, so that attention matters: a model at its usual initialisation is nearly
    blind to faults in queries and keys.
    """
    vocabulary = BPETokenizer.load(tiny_tokenizer).vocab_size

    def make(architecture: str = "qwen3", **settings: object) -> Path:
        sizes = {
            "vocab_size": vocabulary, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
            "max_position_embeddings": 128,
        }  # fmt: skip
        config = ModelConfig.model_validate({"architecture": architecture, **sizes, **settings})
        model = Transformer(config)
        generator = torch.Generator().manual_seed(7)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.15, generator=generator)
            else:
                torch.nn.init.uniform_(parameter, 0.5, 1.5, generator=generator)
        folder = tmp_path_factory.mktemp(architecture)
        save_model(folder, model, tiny_tokenizer)
        return folder

    return make


@pytest.fixture(params=["native", "plain"])
def each_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to compute: with the compiled kernels, where they can be built, and without."""
    if request.param == "plain":
        monkeypatch.setattr(native, "usable", lambda *tensors: False)
    elif native.library(torch.float32) is None:
        pytest.skip("no C++ compiler here")
