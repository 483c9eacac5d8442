"""The network, in one screen. Parameter names are those of Hugging Face checkpoints, so a
`state_dict` is a checkpoint and nothing needs translating.

No device, no parallelism and no training detail lives here: those are applied from outside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from modelwright.base.schema import IGNORE, Batch
from modelwright.base.seams import Words
from modelwright.kernels import fp8
from modelwright.kernels.attention import additive
from modelwright.model.attention import Attention, KeyValueCache, document_mask
from modelwright.model.balance import BalanceConfig, Balancer, Routing, Total, describe
from modelwright.model.config import ModelConfig
from modelwright.model.flops import idle_parameters
from modelwright.model.layers import GeGLU, Linear, RMSNorm, SwiGLU
from modelwright.model.low_rank import LowRankLinear
from modelwright.model.moe import MixtureOfExperts
from modelwright.model.rope import Rope

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

__all__ = ["Linear", "ModelOutput", "Transformer"]


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """Hidden states and the head that would turn them into logits."""

    hidden: Tensor
    """(B, T, D)."""
    head: Tensor
    """(V, D)."""
    auxiliary: Tensor | None = None
    """What training a mixture of experts adds to the loss, summed over supervised tokens (base/seams.py)."""
    routings: Sequence[Routing] = ()
    """What the router of each mixture said, in the order of layers."""
    words: Words | None = None
    """Where processes share out the head: which rows these are (base/seams.py)."""

    def logits(self) -> Tensor:
        """(B, T, V) in fp32."""
        head = self.head if self.words is None else self.words.whole(self.head)
        return (self.hidden @ head.to(self.hidden.dtype).T).float()


class Block(nn.Module):
    """Pre-norm residual block: x + attention, then x + feed-forward."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = _norm(config)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = _norm(config)
        dense = GeGLU if config.gelu else SwiGLU
        self.mlp = (
            MixtureOfExperts(config)
            if layer in config.mixture_layers
            else dense(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        )

    def forward(
        self,
        x: Tensor,
        rope: tuple[Tensor, Tensor],
        bias: Tensor | BlockMask | None,
        cache: KeyValueCache | None,
        favour: Tensor | None = None,
    ) -> tuple[Tensor, Routing | None]:
        """(B, T, D) -> ((B, T, D), what the router of a mixture said; `favour` (E,) sways its choice)."""
        x = x + self.self_attn(self.input_layernorm(x), rope, bias, cache)
        inner = self.post_attention_layernorm(x)
        if isinstance(self.mlp, MixtureOfExperts):
            mixed, routing = self.mlp(inner, favour)
            return x + mixed, routing
        return x + self.mlp(inner), None


def _norm(config: ModelConfig) -> RMSNorm:
    """A norm over the width."""
    return RMSNorm(config.hidden_size, config.rms_norm_eps, centred=config.centred_norms)


class Decoder(nn.Module):
    """Embedding, blocks, last norm: what a checkpoint calls `model`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = _norm(config)
        self.rope = Rope(config.rope_theta, config.head_dim, config.rope_scaling)
        self.embedding_scale = config.embedding_scale
        self.mixtures = config.mixture_layers

    def forward(
        self,
        ids: Tensor,
        positions: Tensor | None,
        mask: Tensor | BlockMask | None,
        cache: KeyValueCache | None,
        dtype: torch.dtype,
        favour: Tensor | None = None,
    ) -> tuple[Tensor, list[Routing]]:
        """(B, T) ids -> ((B, T, D), what each router said)."""
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device)[None]
        cos, sin = self.rope(positions, dtype)
        rope = (cos[:, None], sin[:, None])
        x = self.embed_tokens(ids).to(dtype)
        if self.embedding_scale != 1:
            x = x * torch.tensor(self.embedding_scale, dtype=dtype)  # rounded to the format, as theirs is
        bias = additive(mask, dtype) if isinstance(mask, Tensor) else mask
        routings: list[Routing] = []
        for layer, block in enumerate(self.layers):
            swayed = favour[len(routings)] if favour is not None and layer in self.mixtures else None
            x, routing = block(x, rope, bias, cache, swayed)
            if routing is not None:
                routings.append(routing)
        return self.norm(x), routings


class Transformer(nn.Module):
    """A causal language model."""

    def __init__(
        self,
        config: ModelConfig,
        compute_dtype: torch.dtype = torch.float32,
        balance: BalanceConfig | None = None,
    ) -> None:
        """`balance` is how the experts of a mixture are kept busy in training; by default, the auxiliary loss
        that the configuration states."""
        super().__init__()
        self.config = config
        self.compute_dtype = compute_dtype
        self.model = Decoder(config)
        self.lm_head = (
            None if config.tie_word_embeddings else Linear(config.hidden_size, config.vocab_size, bias=False)
        )
        self.balance = balance or BalanceConfig(loss=config.router_aux_loss_coef)
        self._balancer: Balancer | None = None

    @property
    def head(self) -> Tensor:
        """(V, D) output projection; the embedding where the two are tied."""
        return self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def forward(
        self,
        ids: Tensor,
        positions: Tensor | None = None,
        mask: Tensor | BlockMask | None = None,
        cache: KeyValueCache | None = None,
        favour: Tensor | None = None,
    ) -> ModelOutput:
        """Run the network on (B, T) ids.

        `positions` (B, T) default to 0..T-1. `mask` (B, 1, T, S), True = may attend; without one,
        attention is causal, within the model's window. With a `cache`, a mask over all S stored tokens is
        required. `favour` (mixture layers, E) sways the choice of experts, in training only.
        """
        window = self.config.sliding_window
        if mask is None and window is not None and window < ids.shape[1]:
            mask = document_mask(torch.zeros_like(ids), window)
        hidden, routings = self.model(ids, positions, mask, cache, self.compute_dtype, favour)
        return ModelOutput(hidden, self.head, routings=routings)

    def on_batch(self, batch: Batch) -> ModelOutput:
        """Run the network on a micro-batch; documents packed in one row do not see each other. While a
        mixture is trained, each expert's tokens are counted, and the output carries the auxiliary loss."""
        mask = None if batch.segments is None else document_mask(batch.segments, self.config.sliding_window)
        learns = self.training and torch.is_grad_enabled()
        # What is measured is what would be exported, which carries no bias.
        favour = self._balancer.favour if self._balancer and learns else None
        output = self(batch.ids, batch.positions, mask, favour=favour)
        if not (output.routings and learns):
            return output
        supervised = batch.targets.flatten() != IGNORE
        return replace(output, auxiliary=self._balancing().take(output.routings, supervised))

    def _balancing(self) -> Balancer:
        """Made when training first asks: a model that only answers has none."""
        if self._balancer is None:
            config, layers = self.config, len(self.config.mixture_layers)
            sizes = (layers, config.num_experts, config.num_experts_per_tok)
            self._balancer = Balancer(self.balance, *sizes, device=self.head.device)
        return self._balancer

    def use_eight_bits(self) -> int:
        """Train the linear layers inside the blocks in 8 bits; returns how many have the sizes for it."""
        fitting = [
            layer
            for layer in self._matrices()
            if not (layer.in_features % fp8.ALIGNMENT or layer.out_features % fp8.ALIGNMENT)
        ]
        for layer in fitting:
            layer.eight_bits = True
        return len(fitting)

    def keep_copies(self) -> None:
        """From now on the matrices inside the blocks are cast once a step and not for every micro-batch."""
        for layer in self._matrices():
            layer.copy = layer.weight.detach().to(self.compute_dtype)

    @torch.no_grad()
    def before_step(self, step: int) -> None:
        """What `base.seams.Preparing` asks: the copies that training multiplies with are renewed, and what is
        random follows from the step."""
        for layer in self.model.layers.modules():
            if isinstance(layer, LowRankLinear):
                layer.draw_for(step)
        held = [(layer.copy, layer.weight) for layer in self._matrices() if layer.copy is not None]
        if held:
            copies, weights = zip(*held, strict=True)
            torch._foreach_copy_(list(copies), list(weights))  # pyright: ignore[reportPrivateImportUsage]

    def _matrices(self) -> list[Linear]:
        layers = [layer for layer in self.model.layers.modules() if isinstance(layer, Linear)]
        return [layer for layer in layers if layer.weight.requires_grad]

    def after_step(self, progress: float, total: Total = lambda counts: counts) -> dict[str, float]:
        """What `base.seams.Adapting` asks: how evenly the experts were used. {} for a dense network."""
        return self._balancing().after_step(progress, total) if self.config.mixture_layers else {}

    def training_state(self) -> dict[str, Tensor]:
        """What the next step depends on besides the parameters. {} for a dense network."""
        return self._balancing().state() if self.config.mixture_layers else {}

    def load_training_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `training_state` returned."""
        if self.config.mixture_layers:
            self._balancing().load_state(state)

    def describe_experts(self) -> list[str]:
        """How busy the experts were in the last step, and what is healthy. Empty for a dense network."""
        return describe(self._balancing().load) if self.config.mixture_layers else []

    def num_parameters(self) -> int:
        """Learned numbers, tied ones counted once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def num_active_parameters(self) -> int:
        """Of these, the ones that take part in one token."""
        return self.num_parameters() - idle_parameters(self.config)
