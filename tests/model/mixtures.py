"""A tiny mixture of experts that several tests share."""

from __future__ import annotations

from modelwright.model.config import ModelConfig


def config(**changes: object) -> ModelConfig:
    settings = {
        "architecture": "qwen3_moe", "vocab_size": 96, "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
        "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
    }  # fmt: skip
    return ModelConfig.model_validate({**settings, **changes})
