"""How much arithmetic a token costs, and what of the data that depends on.

Only arithmetic that a training needs is counted: a token takes no part in the attention of documents that it
cannot see, and one without a target makes no logits. What padding does is counted as what text does, since
it passes the same products.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from modelwright.base.schema import Batch
from modelwright.model.config import ModelConfig

SAMPLE = 128
"""Micro-batches, spread evenly over a training, that its mean token is taken from."""


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


def forward_flops_per_token(config: ModelConfig, context: float, supervised: float = 1.0) -> float:
    """Of a forward pass: 2 FLOPs per weight, and 4 x layers x width x context for the attention scores and
    mixes. `context`: tokens in the mean token's document, those behind it included (causal halving is not
    taken); of a model with a window, no more than that. `supervised`: the share of the tokens that have a
    target; the others do not meet the head."""
    width = config.num_attention_heads * config.head_dim
    seen = min(context, config.sliding_window or context)
    return 2.0 * _weights_met(config, supervised) + 4.0 * config.num_hidden_layers * width * seen


def training_flops_per_token(
    config: ModelConfig, context: float, supervised: float = 1.0, *, frozen: bool = False
) -> float:
    """Forward, and backward twice as much, as in the appendix of PaLM (arXiv 2204.02311): 6 FLOPs per weight,
    12 x layers x width x context. `frozen`: all weights are, beside an adapter, so none has a gradient; the
    adapter's own products are small, and left out."""
    gradients = 2.0 * _weights_met(config, supervised)
    return 3.0 * forward_flops_per_token(config, context, supervised) - (gradients if frozen else 0.0)


def _weights_met(config: ModelConfig, supervised: float) -> float:
    """Weights that the mean token is multiplied with."""
    return matmul_parameters(config) - (1 - supervised) * config.hidden_size * config.vocab_size


@dataclass(frozen=True, slots=True)
class MeanToken:
    """What the cost of a training's mean token depends on besides the network."""

    lengths: Tensor
    """(n,) tokens of the documents in a sample of rows."""
    supervised: float
    """Share of the tokens that have a target."""
    positions: float
    """Tokens of a micro-batch, padding included."""

    def context(self, window: int | None = None) -> float:
        """Length of the document that the mean token stands in, sum l^2 / sum l; of each document no more
        than `window` is counted."""
        seen = self.lengths if window is None else self.lengths.clamp(max=window)
        return float((self.lengths * seen).sum() / self.lengths.sum())

    def forward_flops(self, config: ModelConfig) -> float:
        """`forward_flops_per_token` of a network on this data."""
        return forward_flops_per_token(config, self.context(config.sliding_window), self.supervised)

    def training_flops(self, config: ModelConfig, *, frozen: bool = False) -> float:
        """`training_flops_per_token` of a network on this data."""
        context = self.context(config.sliding_window)
        return training_flops_per_token(config, context, self.supervised, frozen=frozen)

    def describe(self, flops: float) -> str:
        """For the log, with the FLOPs of a token."""
        return (
            f"the mean token is in a document of {self.context():,.0f} tokens, {self.supervised:.1%} have a"
            f" target: {flops:.3g} FLOPs a token"
        )


def mean_token(batch: Callable[[int], Batch], count: int) -> MeanToken:
    """The mean token of `count` micro-batches (1 or more), of which `batch` makes one by its number: of all
    of them, or of `SAMPLE`, evenly spread. A document that is cut at a row's end counts as its pieces."""
    chosen = min(count, SAMPLE)
    lengths, targets = list[Tensor](), 0
    for number in range(chosen):
        each = batch(number * count // chosen)
        lengths.append(document_lengths(each))
        targets += len(each.supervised())
    joined = torch.cat(lengths).double()
    total = float(joined.sum())
    return MeanToken(joined, targets / total, total / chosen)


def document_lengths(batch: Batch) -> Tensor:
    """(n,) int64 tokens of the documents in a batch's rows, a packed row's padding as one more. A row without
    segments is one document, with its padding: attention runs over all of it."""
    rows, length = batch.ids.shape
    first = torch.zeros(rows, length, dtype=torch.bool)
    first[:, :1] = True
    if batch.segments is not None:
        first[:, 1:] = batch.segments[:, 1:] != batch.segments[:, :-1]
    starts = first.flatten().nonzero().flatten()
    return starts.diff(append=torch.tensor([rows * length]))
