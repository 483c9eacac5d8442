"""What a network looks like, and the one dial that derives it.

`ModelConfig` is the whole truth about a network, in Hugging Face's names. `ModelChoice` is what a
recipe says: a depth, and whatever should differ from what the depth implies.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from modelwright.base.config import Config
from modelwright.base.errors import ConfigError

Architecture = Literal["qwen3", "qwen2", "llama"]


class ModelConfig(Config):
    """A decoder-only transformer: RMSNorm, RoPE, grouped-query attention, SwiGLU.

    qwen3 normalises queries and keys per head (QK-norm), qwen2 has biases on the query, key and value
    projections, llama has neither.
    """

    architecture: Architecture = "qwen3"
    vocab_size: int = Field(gt=0)
    hidden_size: int = Field(gt=0)
    intermediate_size: int = Field(gt=0)
    num_hidden_layers: int = Field(gt=0)
    num_attention_heads: int = Field(gt=0)
    num_key_value_heads: int = Field(gt=0)
    head_dim: int = Field(gt=0)
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    max_position_embeddings: int = 2048
    tie_word_embeddings: bool = True

    @model_validator(mode="after")
    def _shapes_fit(self) -> ModelConfig:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads ({self.num_attention_heads}) must be a multiple of "
                f"num_key_value_heads ({self.num_key_value_heads})"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim ({self.head_dim}) must be even: RoPE rotates pairs")
        return self

    @property
    def qk_norm(self) -> bool:
        """Whether queries and keys are normalised per head."""
        return self.architecture == "qwen3"

    @property
    def qkv_bias(self) -> bool:
        """Whether the query, key and value projections have biases."""
        return self.architecture == "qwen2"


class ModelChoice(Config):
    """The dial, and what to set beside it. Everything left None is derived from `depth`."""

    depth: int = Field(default=4, gt=0)
    """Number of layers. Width, heads and feed-forward size follow."""
    architecture: Architecture = "qwen3"
    hidden_size: int | None = None
    """Default: 64 x depth, rounded up to a multiple of 256 (so that every GGUF type can hold it)."""
    intermediate_size: int | None = None
    """Default: 3 x hidden_size, as in Qwen3's smallest models."""
    num_attention_heads: int | None = None
    num_key_value_heads: int | None = None
    """Default: half of num_attention_heads."""
    head_dim: int | None = None
    """Default: 64 below a width of 1024, else 128."""
    rope_theta: float = 10_000.0
    tie_word_embeddings: bool = True
    max_position_embeddings: int = 1024

    def derive(self, vocab_size: int) -> ModelConfig:
        """The network this choice stands for."""
        hidden = self.hidden_size or -(-64 * self.depth // 256) * 256
        head_dim = self.head_dim or (64 if hidden < 1024 else 128)
        if self.num_attention_heads is None and hidden % head_dim:
            raise ConfigError(
                f"model.hidden_size {hidden} is no multiple of model.head_dim {head_dim}: "
                "set model.num_attention_heads or another size"
            )
        heads = self.num_attention_heads or hidden // head_dim
        return ModelConfig(
            architecture=self.architecture,
            vocab_size=vocab_size,
            hidden_size=hidden,
            intermediate_size=self.intermediate_size or 3 * hidden,
            num_hidden_layers=self.depth,
            num_attention_heads=heads,
            num_key_value_heads=self.num_key_value_heads or max(1, heads // 2),
            head_dim=head_dim,
            rope_theta=self.rope_theta,
            max_position_embeddings=self.max_position_embeddings,
            tie_word_embeddings=self.tie_word_embeddings,
        )
