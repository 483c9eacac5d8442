"""How much arithmetic a token costs."""

from __future__ import annotations

from modelwright.model.config import ModelConfig


def matmul_parameters(config: ModelConfig) -> int:
    """Weights that a token is multiplied with: all but the embedding's look-up and the norms. Of a mixture,
    the router and the experts that the token is sent to."""
    q = config.num_attention_heads * config.head_dim
    kv = config.num_key_value_heads * config.head_dim
    sparse = len(config.mixture_layers)
    attention = config.num_hidden_layers * (2 * q + 2 * kv)
    dense = (config.num_hidden_layers - sparse) * 3 * config.intermediate_size
    read = 3 * config.moe_intermediate_size * config.num_experts_per_tok + config.num_experts
    return config.hidden_size * (attention + dense + sparse * read + config.vocab_size)


def idle_parameters(config: ModelConfig) -> int:
    """Weights of the experts that a token is not sent to: total less active parameters."""
    idle = config.num_experts - config.num_experts_per_tok
    return len(config.mixture_layers) * idle * 3 * config.hidden_size * config.moe_intermediate_size


def training_flops_per_token(config: ModelConfig, context: int) -> float:
    """6 FLOPs per weight (forward 2, backward 4), and 12 x layers x width x context for the attention
    scores and mixes, as in the appendix of PaLM (arXiv 2204.02311); causal halving is not taken."""
    width = config.num_attention_heads * config.head_dim
    return 6.0 * matmul_parameters(config) + 12.0 * config.num_hidden_layers * width * context
