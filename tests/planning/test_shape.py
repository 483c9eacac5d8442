"""Shapes: counts are those of real models, foreign ones are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from modelwright.base.errors import UserError
from modelwright.formats.config_json import config_to_json
from modelwright.model.config import ModelChoice, ModelConfig
from modelwright.model.transformer import Transformer
from modelwright.planning.shape import Shape, find_shape, known_shape, known_shapes

PUBLISHED = {
    "gpt2-small": 124_439_808,
    "llama-2-7b": 6_738_415_616,
    "llama-3.1-8b": 8_030_261_248,
    "mixtral-8x7b": 46_702_792_704,
    "qwen3-0.6b": 596_049_920,
    "qwen3-30b-a3b": 30_532_122_624,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
}
"""Numbers of weights as the published checkpoints have them."""


def test_a_name_on_the_hub_is_known_by_its_shape() -> None:
    assert find_shape("HuggingFaceTB/SmolLM2-135M-Instruct@main") == known_shape("smollm2-135m")
    assert find_shape("meta-llama/Llama-3.1-8B") == known_shape("llama-3.1-8b")
    with pytest.raises(UserError, match="known as 'Someone/Odd-7B-Instruct@main'"):
        find_shape("Someone/Odd-7B-Instruct@main")


@pytest.mark.parametrize("name", PUBLISHED)
def test_known_shapes_have_as_many_weights_as_the_checkpoints(name: str) -> None:
    assert known_shape(name).parameters == PUBLISHED[name]


@pytest.mark.parametrize("architecture", ["qwen3", "qwen2", "llama"])
@pytest.mark.parametrize("tied", [True, False])
def test_counts_are_those_of_our_networks(architecture: str, tied: bool) -> None:
    config = ModelChoice(depth=3, architecture=architecture, tie_word_embeddings=tied).derive(500)
    with torch.device("meta"):
        model = Transformer(config)
    assert Shape.of(config).parameters == model.num_parameters()


@pytest.mark.parametrize(
    "settings",
    [{"architecture": "llama", "attention_bias": True, "mlp_bias": True}, {"architecture": "gemma"},
     {"architecture": "qwen3", "attention_bias": True}, {"architecture": "qwen2"}],
)  # fmt: skip
def test_biases_of_imported_models_are_counted(settings: dict[str, Any], tmp_path: Path) -> None:
    config = ModelConfig(
        vocab_size=500, hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, **settings,
    )  # fmt: skip
    with torch.device("meta"):
        count = Transformer(config).num_parameters()
    (tmp_path / "config.json").write_text(json.dumps(config_to_json(config, torch.float32, {})))
    assert Shape.of(config).parameters == find_shape(str(tmp_path)).parameters == count


def test_experts_are_counted_all_and_as_a_token_meets_them() -> None:
    config = ModelConfig(
        architecture="qwen3_moe", vocab_size=500, hidden_size=64, intermediate_size=128, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, num_experts=8, num_experts_per_tok=2,
        moe_intermediate_size=32, mlp_only_layers=(1,),
    )  # fmt: skip
    with torch.device("meta"):
        model = Transformer(config)
    shape = Shape.of(config)
    assert shape.parameters == model.num_parameters()
    assert shape.parameters - shape.active_parameters == 2 * 6 * 3 * 64 * 32  # 6 of 8 experts, 2 layers


def test_a_config_json_is_read(tmp_path: Path) -> None:
    config = {"model_type": "llama", "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22,
              "num_attention_heads": 32, "num_key_value_heads": 4, "vocab_size": 32000}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert find_shape(str(tmp_path)).parameters == known_shape("tinyllama-1.1b").parameters


@pytest.mark.parametrize(
    ("content", "said"),
    [({"hidden_size": 8}, "lacks"), ([1], "no model configuration"),
     ({"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 9,
       "kv_lora_rank": 4}, "kv_lora_rank")],
)  # fmt: skip
def test_what_the_planner_does_not_know_is_refused(tmp_path: Path, content: object, said: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=said):
        find_shape(str(file))


def test_names_and_sizes() -> None:
    assert find_shape("7B").name == "llama-2-7b"
    assert all(find_shape(name).layers for name in known_shapes())
    with pytest.raises(UserError, match=r"llama-3\.1-8b"):
        find_shape("llama-3.1-8c")
