"""What a network looks like, and the one dial that derives it.

`ModelConfig` is the whole truth about a network, in Hugging Face's names. `ModelChoice` is what a
recipe says: a depth, and whatever should differ from what the depth implies.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError, model_validator

from modelwright.base.config import Config
from modelwright.base.errors import ConfigError
from modelwright.model.balance import BalanceConfig
from modelwright.model.rope import RopeScaling

Architecture = Literal["qwen3", "qwen2", "llama", "mistral", "gemma", "qwen3_moe"]
EXPERT_FIELDS = frozenset(
    {
        "num_experts",
        "num_experts_per_tok",
        "moe_intermediate_size",
        "norm_topk_prob",
        "decoder_sparse_step",
        "mlp_only_layers",
        "router_aux_loss_coef",
    }
)
"""What a ModelConfig says about a mixture of experts, and a dense one does not."""
OPTIONAL_BIASES = {"attention_bias": ("llama", "gemma", "qwen3", "qwen3_moe"), "mlp_bias": ("llama",)}
"""Biases that Hugging Face's classes leave open, and which of them do."""
EXPERT_WIDTH = 32
"""Experts are as wide as a multiple of this: a block of GGUF's Q8_0, and what GPUs want."""
VOCABULARY = 4096
"""Tokens of a network that is planned, where nobody has said how many there will be."""


class ModelConfig(Config):
    """A decoder-only transformer: RMSNorm, RoPE, grouped-query attention, SwiGLU.

    qwen3 normalises queries and keys per head (QK-norm), qwen2 has biases on the query, key and value
    projections, llama and mistral have neither. qwen3_moe is qwen3 with a mixture of experts as feed-forward
    network. gemma (the first one, arXiv 2403.08295) is llama with GeGLU, norms whose weights are held less
    one, and embeddings multiplied by the root of the width.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    architecture: Architecture = "qwen3"
    vocab_size: int = Field(gt=0)
    hidden_size: int = Field(gt=0)
    intermediate_size: int = Field(gt=0)
    num_hidden_layers: int = Field(gt=0, le=10_000)
    num_attention_heads: int = Field(gt=0)
    num_key_value_heads: int = Field(gt=0)
    head_dim: int = Field(gt=0)
    rms_norm_eps: float = 1e-6
    rope_theta: float = Field(default=10_000.0, gt=1)
    rope_scaling: RopeScaling | None = None
    """How rotations are stretched over more positions than the model was first trained on."""
    max_position_embeddings: int = 2048
    tie_word_embeddings: bool = True
    attention_bias: bool = False
    """Whether all four projections of attention have biases, which the architecture leaves open."""
    mlp_bias: bool = False
    """Whether the three matrices of the feed-forward network have, likewise."""
    sliding_window: int | None = Field(default=None, gt=0)
    """A position sees itself and the ones before it, this many in all; None: everything before. What lies
    further back still arrives, a window a layer."""
    num_experts: int = Field(default=0, ge=0)
    """Experts in each mixture; 0 in a dense network."""
    num_experts_per_tok: int = Field(default=0, ge=0)
    """How many of them read a token."""
    moe_intermediate_size: int = Field(default=0, ge=0)
    """Feed-forward size of one expert."""
    norm_topk_prob: bool = True
    """Whether the weights of the chosen experts are divided by their sum."""
    decoder_sparse_step: int = Field(default=1, gt=0)
    """Layers number n, 2n, 3n... from 1 are mixtures; the others are dense, of `intermediate_size`."""
    mlp_only_layers: tuple[int, ...] = ()
    """Layers, from 0, that are dense in any case."""
    router_aux_loss_coef: float = Field(default=0.01, ge=0)
    """Weight of the auxiliary loss wherever this model is trained."""

    @model_validator(mode="after")
    def _experts_fit(self) -> ModelConfig:
        sizes = (self.num_experts, self.num_experts_per_tok, self.moe_intermediate_size)
        if self.architecture != "qwen3_moe" and any(sizes):
            raise ValueError(f"the architecture {self.architecture} has no experts: expected qwen3_moe")
        if self.architecture == "qwen3_moe" and not (all(sizes) and sizes[1] <= sizes[0]):
            raise ValueError(
                "qwen3_moe needs num_experts, num_experts_per_tok (no more) and moe_intermediate_size,"
                f" received {sizes[0]}, {sizes[1]} and {sizes[2]}"
            )
        return self

    @model_validator(mode="after")
    def _window_fits(self) -> ModelConfig:
        if self.sliding_window and self.architecture in ("llama", "gemma"):
            raise ValueError(
                f"the architecture {self.architecture} has no sliding_window: expected mistral, llama's like"
                " with one"
            )
        return self

    @model_validator(mode="after")
    def _biases_fit(self) -> ModelConfig:
        for name, architectures in OPTIONAL_BIASES.items():
            if getattr(self, name) and self.architecture not in architectures:
                raise ValueError(
                    f"the architecture {self.architecture} has no {name}: expected one of"
                    f" {', '.join(architectures)}"
                )
        return self

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
        return self.architecture in ("qwen3", "qwen3_moe")

    @property
    def qkv_bias(self) -> bool:
        """Whether the query, key and value projections have biases."""
        return self.architecture == "qwen2" or self.attention_bias

    @property
    def centred_norms(self) -> bool:
        """Whether the weights of norms are held less one, so that zero changes nothing."""
        return self.architecture == "gemma"

    @property
    def gelu(self) -> bool:
        """Whether feed-forward gates pass through GELU (by tanh) instead of SiLU."""
        return self.architecture == "gemma"

    @property
    def embedding_scale(self) -> float:
        """What embeddings are multiplied with where they enter the blocks."""
        return math.sqrt(self.hidden_size) if self.architecture == "gemma" else 1.0

    @property
    def mixture_layers(self) -> tuple[int, ...]:
        """The layers, from 0, whose feed-forward network is a mixture of experts."""
        layers = range(self.num_hidden_layers) if self.num_experts else ()
        return tuple(
            n for n in layers if (n + 1) % self.decoder_sparse_step == 0 and n not in self.mlp_only_layers
        )


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
    sliding_window: int | None = None
    """How many positions one sees, itself included; None: all before it."""
    experts: int = Field(default=0, ge=0)
    """Experts in each layer; 0: a dense network."""
    experts_per_token: int = Field(default=2, gt=0)
    """How many of them read a token."""
    expert_size: int | None = None
    """Feed-forward size of one expert. Default: intermediate_size / experts_per_token, so that a token costs
    what it costs in the dense network of this depth."""
    balance: BalanceConfig = BalanceConfig()
    """How the experts are kept alike busy."""

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
        intermediate = self.intermediate_size or 3 * hidden
        return _shape(
            **self._mixture(intermediate),
            vocab_size=vocab_size,
            hidden_size=hidden,
            intermediate_size=intermediate,
            num_hidden_layers=self.depth,
            num_attention_heads=heads,
            num_key_value_heads=self.num_key_value_heads or max(1, heads // 2),
            head_dim=head_dim,
            rope_theta=self.rope_theta,
            max_position_embeddings=self.max_position_embeddings,
            tie_word_embeddings=self.tie_word_embeddings,
            sliding_window=self.sliding_window,
        )

    def _mixture(self, intermediate: int) -> dict[str, Any]:
        """The architecture, and what it says of experts."""
        if not self.experts:
            return {"architecture": self.architecture}
        if self.architecture not in ("qwen3", "qwen3_moe"):
            raise ConfigError(
                f"model.experts is {self.experts} and model.architecture {self.architecture}, which has no "
                "experts: expected qwen3"
            )
        width = round(intermediate / self.experts_per_token / EXPERT_WIDTH) * EXPERT_WIDTH
        return {
            "architecture": "qwen3_moe",
            "num_experts": self.experts,
            "num_experts_per_tok": self.experts_per_token,
            "moe_intermediate_size": self.expert_size or max(EXPERT_WIDTH, width),
            "router_aux_loss_coef": self.balance.loss if self.balance.kind != "none" else 0.0,
        }


def _shape(**settings: Any) -> ModelConfig:
    """A network of these sizes; what does not fit together is a mistake in the recipe's `model`."""
    try:
        return ModelConfig(**settings)
    except ValidationError as error:
        why = "; ".join(item["msg"].removeprefix("Value error, ") for item in error.errors())
        raise ConfigError(f"'model' describes no network: {why}") from error
