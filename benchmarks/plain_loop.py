"""The peer that people write themselves: a Llama in plain torch and a loop in the manner of nanoGPT.

What nanoGPT does at its best: bf16 autocast, fused AdamW, torch.compile of the whole model, the fused
attention of torch, batches cut from one long array. Nothing of ours computes in here. The network is the
Llama that the other sides train, with the same number of parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelwright.model.config import ModelConfig


class Block(nn.Module):
    """Attention and a gated feed-forward, each behind a norm."""

    def __init__(self, width: int, heads: int, kv_heads: int, head_dim: int, inner: int) -> None:
        super().__init__()
        self.written_out = False  # nanoGPT has both; on a CPU the compiled one is the faster to train
        self.sizes = heads, kv_heads, head_dim
        self.norm_1, self.norm_2 = nn.RMSNorm(width, eps=1e-6), nn.RMSNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, (heads + 2 * kv_heads) * head_dim, bias=False)
        self.out = nn.Linear(heads * head_dim, width, bias=False)
        self.gate_up = nn.Linear(width, 2 * inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        heads, kv_heads, size = self.sizes
        batch, length, _ = x.shape
        qkv = self.qkv(self.norm_1(x)).view(batch, length, -1, size).transpose(1, 2)
        q, k, v = qkv.split([heads, kv_heads, kv_heads], dim=1)
        q, k = q * cos + _turned(q) * sin, k * cos + _turned(k) * sin
        k, v = (each.repeat_interleave(heads // kv_heads, dim=1) for each in (k, v))
        mixed = (_written_out if self.written_out else _fused)(q.to(v.dtype), k.to(v.dtype), v)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, heads * size))
        gate, up = self.gate_up(self.norm_2(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


def _fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def _written_out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5
    hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
    return scores.masked_fill(hidden, float("-inf")).softmax(-1).to(v.dtype) @ v


def _turned(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


class PlainLlama(nn.Module):
    """Embedding, blocks, tied head; returns the mean loss."""

    cos: Tensor
    sin: Tensor

    @classmethod
    def of(cls, shape: ModelConfig, length: int, written_out: bool = False) -> PlainLlama:
        """The network of a shape of ours, for rows of `length` tokens; attention fused or written out."""
        made = cls(
            shape.vocab_size,
            shape.hidden_size,
            shape.num_hidden_layers,
            shape.num_attention_heads,
            shape.num_key_value_heads,
            shape.head_dim,
            shape.intermediate_size,
            length,
        )
        for block in made.blocks:
            assert isinstance(block, Block)
            block.written_out = written_out
        return made

    def __init__(
        self,
        vocabulary: int,
        width: int,
        layers: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        inner: int,
        length: int,
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(Block(width, heads, kv_heads, head_dim, inner) for _ in range(layers))
        self.norm = nn.RMSNorm(width, eps=1e-6)
        angles = torch.arange(length)[:, None] / 10_000 ** (torch.arange(0, head_dim, 2) / head_dim)
        angles = torch.cat((angles, angles), dim=-1)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                deep = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * layers) ** 0.5 if deep else 0.02)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """(B, T) -> the mean of -log p(target), in nats."""
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, self.cos[: ids.shape[1]], self.sin[: ids.shape[1]])
        logits = F.linear(self.norm(x), self.embed.weight)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


class PlainLoop:
    """One update a call."""

    def __init__(self, model: PlainLlama, rate: float, decay: float, compiled: bool) -> None:
        matrices = [p for p in model.parameters() if p.ndim == 2]
        others = [p for p in model.parameters() if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
        self.model = model
        self.optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), fused=True)
        self._run = torch.compile(model, dynamic=False) if compiled else model
        self._rate = rate

    def step(self, micro: Sequence[tuple[Tensor, Tensor]], factor: float = 1.0) -> float:
        """Train on the (ids, targets) of one step at `factor` times the rate; the loss before the update."""
        for group in self.optimizer.param_groups:
            group["lr"] = factor * self._rate
        total = 0.0
        for ids, targets in micro:
            with torch.autocast(ids.device.type, torch.bfloat16):
                loss = self._run(ids, targets) / len(micro)
            loss.backward()
            total = loss.detach() + total
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(total)

    @torch.no_grad()
    def loss(self, batches: list[tuple[Tensor, Tensor]]) -> float:
        """Mean loss over held-out batches of equal size."""
        with (
            torch.autocast(batches[0][0].device.type, torch.bfloat16),
            torch.compiler.set_stance("force_eager"),
        ):
            return sum(float(self.model(*batch)) for batch in batches) / len(batches)
