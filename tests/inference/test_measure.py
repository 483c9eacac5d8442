"""Timing an engine: what is counted, and what a step must read."""

from __future__ import annotations

import pytest
import torch

from modelwright.compression.quantize import quantize
from modelwright.formats.huggingface import load_model
from modelwright.inference.engine import Engine
from modelwright.inference.measure import random_prompts, step_bytes, time_phases
from modelwright.tokenizer.bpe import BPETokenizer


@pytest.fixture(scope="module")
def model(tiny_model):
    return load_model(tiny_model())


def test_the_two_phases_count_every_token_after_the_first(model, tiny_tokenizer):
    engine = Engine(model, BPETokenizer.load(tiny_tokenizer), max_slots=3, stop_ids=())
    found = time_phases(engine, random_prompts(engine.vocab_size, 3, 10, seed=0), 6)
    assert found.decoded == 3 * 5
    assert found.prefill > 0 and found.decode_rate == found.decoded / found.decode
    assert engine.step() == [], "nothing is left behind"


def test_one_token_is_prefill_alone(model, tiny_tokenizer):
    engine = Engine(model, BPETokenizer.load(tiny_tokenizer), stop_ids=())
    assert time_phases(engine, random_prompts(engine.vocab_size, 1, 10, seed=0), 1).decoded == 0


def test_prompts_share_no_beginning():
    prompts = [*random_prompts(400, 8, 16, seed=0), *random_prompts(400, 8, 16, seed=1)]
    assert len({tuple(prompt[:4]) for prompt in prompts}) == 16
    assert random_prompts(400, 2, 5, seed=3) == random_prompts(400, 2, 5, seed=3)


def test_a_step_reads_the_weights_once_and_every_cache(model):
    weights = sum(parameter.numel() * 4 for parameter in model.parameters())
    assert step_bytes(model, 1, 0) == step_bytes(model, 8, 0) == weights
    per_token = 2 * 2 * 2 * 16 * 4  # keys and values, layers, kv heads, head_dim, fp32
    assert step_bytes(model, 8, 10) == weights + 8 * 10 * per_token


def test_an_embedding_of_its_own_is_not_read(tiny_model):
    model = load_model(tiny_model(tie_word_embeddings=False))
    embedding = model.config.vocab_size * model.config.hidden_size * 4
    assert step_bytes(model, 1, 0) == sum(p.numel() * 4 for p in model.parameters()) - embedding


def test_quantized_weights_are_counted_as_they_are_held(model):
    eight = quantize(model, kept_dtype=torch.float32)
    blocks = [t for t in eight.state_dict().values() if t.dtype == torch.int8]
    saved = sum(3 * t.numel() - 4 * t.shape[0] for t in blocks)  # a scale for each row comes on top
    assert step_bytes(eight, 1, 0) == step_bytes(model, 1, 0) - saved


def test_only_the_experts_that_are_asked_are_read(tiny_model):
    sizes = {"num_experts": 4, "num_experts_per_tok": 1, "moe_intermediate_size": 32}
    model = load_model(tiny_model("qwen3_moe", **sizes))
    experts = sum(p.numel() * 4 for name, p in model.named_parameters() if ".experts." in name)
    others = sum(p.numel() * 4 for p in model.parameters()) - experts
    assert step_bytes(model, 1, 0) == pytest.approx(others + experts / 4)
    assert step_bytes(model, 2, 0) == pytest.approx(others + experts * (1 - (3 / 4) ** 2))
    assert step_bytes(model, 1000, 0) == pytest.approx(others + experts)
