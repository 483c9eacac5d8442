"""The network, in one screen. Parameter names are those of Hugging Face checkpoints, so a
`state_dict` is a checkpoint and nothing needs translating.

No device, no parallelism and no training detail lives here: those are applied from outside.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modelwright.base.schema import Batch
from modelwright.kernels.attention import additive
from modelwright.model.attention import Attention, KeyValueCache, Rope, segment_mask
from modelwright.model.config import ModelConfig
from modelwright.model.layers import Linear, RMSNorm, SwiGLU

__all__ = ["Linear", "ModelOutput", "Transformer"]


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """Hidden states and the head that would turn them into logits."""

    hidden: Tensor
    """(B, T, D)."""
    head: Tensor
    """(V, D)."""

    def logits(self) -> Tensor:
        """(B, T, V) in fp32."""
        return (self.hidden @ self.head.to(self.hidden.dtype).T).float()


class Block(nn.Module):
    """Pre-norm residual block: x + attention, then x + feed-forward."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = SwiGLU(config.hidden_size, config.intermediate_size)

    def forward(
        self, x: Tensor, rope: tuple[Tensor, Tensor], bias: Tensor | None, cache: KeyValueCache | None
    ) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        x = x + self.self_attn(self.input_layernorm(x), rope, bias, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """Embedding, blocks, last norm: what a checkpoint calls `model`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rope = Rope(config)

    def forward(
        self,
        ids: Tensor,
        positions: Tensor | None,
        mask: Tensor | None,
        cache: KeyValueCache | None,
        dtype: torch.dtype,
    ) -> Tensor:
        """(B, T) ids -> (B, T, D)."""
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device)[None]
        cos, sin = self.rope(positions, dtype)
        rope = (cos[:, None], sin[:, None])
        x = self.embed_tokens(ids).to(dtype)
        bias = None if mask is None else additive(mask, dtype)
        for block in self.layers:
            x = block(x, rope, bias, cache)
        return self.norm(x)


class Transformer(nn.Module):
    """A causal language model."""

    def __init__(self, config: ModelConfig, compute_dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype = compute_dtype
        self.model = Decoder(config)
        self.lm_head = (
            None if config.tie_word_embeddings else Linear(config.hidden_size, config.vocab_size, bias=False)
        )

    @property
    def head(self) -> Tensor:
        """(V, D) output projection; the embedding where the two are tied."""
        return self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def forward(
        self,
        ids: Tensor,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> ModelOutput:
        """Run the network on (B, T) ids.

        `positions` (B, T) default to 0..T-1. `mask` (B, 1, T, S), True = may attend; without one,
        attention is causal. With a `cache`, a mask over all S stored tokens is required.
        """
        return ModelOutput(self.model(ids, positions, mask, cache, self.compute_dtype), self.head)

    def on_batch(self, batch: Batch) -> ModelOutput:
        """Run the network on a micro-batch; documents packed in one row do not see each other."""
        mask = None if batch.segments is None else segment_mask(batch.segments)
        return self(batch.ids, batch.positions, mask)

    def num_parameters(self) -> int:
        """Learned numbers, tied ones counted once."""
        return sum(parameter.numel() for parameter in self.parameters())
