"""How much arithmetic a token costs."""

from __future__ import annotations

from modelwright.model.config import ModelConfig


def matmul_parameters(config: ModelConfig) -> int:
    """Weights that every token is multiplied with: all but the embedding's look-up and the norms."""
    q = config.num_attention_heads * config.head_dim
    kv = config.num_key_value_heads * config.head_dim
    layer = config.hidden_size * (2 * q + 2 * kv) + 3 * config.hidden_size * config.intermediate_size
    return config.num_hidden_layers * layer + config.vocab_size * config.hidden_size


def training_flops_per_token(config: ModelConfig, context: int) -> float:
    """6 FLOPs per weight (forward 2, backward 4), and 12 x layers x width x context for the attention
    scores and mixes, as in the appendix of PaLM (arXiv 2204.02311); causal halving is not taken."""
    width = config.num_attention_heads * config.head_dim
    return 6.0 * matmul_parameters(config) + 12.0 * config.num_hidden_layers * width * context
