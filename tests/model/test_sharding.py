"""The plan of tensor parallelism names what there is, for every architecture."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from modelwright.base.errors import ConfigError
from modelwright.model.config import ModelConfig
from modelwright.model.layers import Linear
from modelwright.model.moe import MixtureOfExperts
from modelwright.model.sharding import tensor_plan
from modelwright.model.transformer import Transformer

SIZES: dict[str, Any] = {
    "vocab_size": 41, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
}  # fmt: skip
MIXTURE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "qwen3, untied": {"tie_word_embeddings": False},
    "qwen2": {"architecture": "qwen2"},
    "llama": {"architecture": "llama", "tie_word_embeddings": False},
    "mistral": {"architecture": "mistral", "sliding_window": 8},
    "gemma": {"architecture": "gemma"},
    "mixture": {"architecture": "qwen3_moe", **MIXTURE},
    "mixture in every second layer": {"architecture": "qwen3_moe", "decoder_sparse_step": 2, **MIXTURE},
    "mixture but for one layer": {"architecture": "qwen3_moe", "mlp_only_layers": (1,), **MIXTURE},
}


@pytest.mark.parametrize("name", SHAPES)
def test_every_matrix_but_those_of_experts_is_cut_once(name: str) -> None:
    config = ModelConfig(**(SIZES | SHAPES[name]))
    with torch.device("meta"):
        model = Transformer(config)
    plan = tensor_plan(config, 2)
    matrices = {
        where: "words" if isinstance(module, nn.Embedding) else None
        for where, module in model.named_modules()
        if isinstance(module, Linear | nn.Embedding)
    }
    cut = {where: how for where, how in plan.items() if not how.startswith("whole")}
    assert cut.keys() == matrices.keys()
    for where, how in cut.items():
        last = where.endswith(("o_proj", "down_proj"))
        assert how == (matrices[where] or ("rows" if last else "columns"))


@pytest.mark.parametrize("name", SHAPES)
def test_sequences_are_whole_where_products_begin_and_for_objectives(name: str) -> None:
    config = ModelConfig(**(SIZES | SHAPES[name]))
    with torch.device("meta"):
        model = Transformer(config)
    plan = tensor_plan(config, 2)
    for layer, block in enumerate(model.model.layers):
        assert plan[f"model.layers.{layer}.self_attn"] == "whole_input"
        dense = not isinstance(block.mlp, MixtureOfExperts)
        assert plan.get(f"model.layers.{layer}.mlp") == ("whole_input" if dense else None)
    assert plan["model"] == "whole_output"


def test_alone_nothing_is_cut() -> None:
    assert tensor_plan(ModelConfig(**SIZES), 1) == {}


@pytest.mark.parametrize(
    ("changes", "ways", "message"),
    [
        ({}, 4, r"does not divide num_key_value_heads \(2\)"),
        ({"intermediate_size": 33}, 2, r"does not divide intermediate_size \(33\)"),
        ({"architecture": "llama", "attention_bias": True}, 2, "adds biases"),
        ({"num_key_value_heads": 4, "vocab_size": 5}, 4, "5 words leave a process without one"),
    ],
)
def test_what_cannot_be_dealt_out_is_refused(changes: dict[str, Any], ways: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tensor_plan(ModelConfig(**(SIZES | changes)), ways)


def test_a_mixture_everywhere_has_no_feed_forward_size_to_divide() -> None:
    shape = SIZES | SHAPES["mixture"]
    shape["intermediate_size"] = 33
    assert tensor_plan(ModelConfig(**shape), 2)
