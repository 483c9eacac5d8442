"""Grouped-query attention with rotary positions (RoPE, arXiv 2104.09864; GQA, arXiv 2305.13245).

Shapes: B batch, T new tokens, S tokens attended to, H query heads, K key/value heads, hd head size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from modelwright.kernels import flex
from modelwright.kernels.attention import attend
from modelwright.kernels.rotary import rotate
from modelwright.model.config import ModelConfig
from modelwright.model.layers import Linear, RMSNorm, project

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask


class KeyValueCache(Protocol):
    """Where decoding keeps keys and values between steps."""

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new (B, K, T, hd) keys and values; return all to attend to, (B, K, S, hd)."""
        ...


def document_mask(segments: Tensor, window: int | None = None) -> Tensor | BlockMask:
    """`segment_mask`, or on CUDA the blocks of it that hold anything."""
    make = flex.block_mask if flex.usable(segments) else segment_mask
    return make(segments, window)


def segment_mask(segments: Tensor, window: int | None = None) -> Tensor:
    """(B, T) document numbers -> (B, 1, T, T) mask: causal, only within a document, and no further back than
    `window` positions, one's own included."""
    same = segments[:, None, :, None] == segments[:, None, None, :]
    near = torch.ones(same.shape[-2:], dtype=torch.bool, device=segments.device).tril()
    return same & (near if window is None else near.triu(1 - window))


class Attention(nn.Module):
    """One layer's attention."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        q_size = config.num_attention_heads * config.head_dim
        kv_size = config.num_key_value_heads * config.head_dim
        self.q_proj = Linear(config.hidden_size, q_size, bias=config.qkv_bias)
        self.k_proj = Linear(config.hidden_size, kv_size, bias=config.qkv_bias)
        self.v_proj = Linear(config.hidden_size, kv_size, bias=config.qkv_bias)
        self.o_proj = Linear(q_size, config.hidden_size, bias=config.attention_bias)
        if config.qk_norm:
            self.q_norm = RMSNorm(self.head_dim, config.rms_norm_eps)
            self.k_norm = RMSNorm(self.head_dim, config.rms_norm_eps)
        self.qk_norm = config.qk_norm

    def forward(
        self,
        x: Tensor,
        rope: tuple[Tensor, Tensor],
        bias: Tensor | BlockMask | None,
        cache: KeyValueCache | None,
    ) -> Tensor:
        """(B, T, D) -> (B, T, D). Without a bias (a mask in numbers) and a cache, attention is causal."""
        batch, length, _ = x.shape
        # As many heads as there are: under tensor parallelism a process has some of them.
        projected = project(x, self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (each.view(batch, length, -1, self.head_dim) for each in projected)
        if self.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = rotate(q.transpose(1, 2), *rope), rotate(k.transpose(1, 2), *rope), v.transpose(1, 2)
        if cache is not None:
            k, v = cache.update(self.layer, k, v)
        # Asked, and not copied: where lengths vary, a compiler has a symbol for the answer.
        causal = True if bias is None and cache is None and length > 1 else False  # noqa: SIM210
        mixed = attend(q, k, v, bias, causal=causal)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))
