"""What autograd keeps of a forward pass until the backward pass, in bytes.

Counted tensor by tensor from our layers and kernels, and held against what `saved_tensors_hooks` sees in
tests/planning/test_activations.py. In a layer, for each token (D width, F feed-forward, q and k numbers of
all query and key heads, a bytes of an activation):

    a (2 D + 2 D + q + k + k + q + 3 F)   residual stream twice, both normalised inputs; q, k, v as attention
                                          takes them and its mix; gate, up and their product
    + a (q + k) with QK-norm              queries and keys before it
    + a heads T with explicit attention   probabilities (on a CPU without tiled attention, up to 512)
    + 4 (2 + heads + kv_heads)            fp32 scales of the norms, the heads' ones with QK-norm

and once: weights cast to bf16, each kept until its gradient is made; on a CPU those of experts alone, since
others are cast again (kernels/linear.py). The fused loss keeps the gradient of the hidden states and, in
fp32, that of the head (kernels/cross_entropy.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from modelwright.kernels.attention import EXPLICIT_MAX_LENGTH
from modelwright.kernels.cross_entropy import chunk_size
from modelwright.kernels.flex import BLOCK
from modelwright.kernels.tile_attention import MAX_HEAD, PANEL
from modelwright.planning.shape import Shape

Checkpointing = Literal["none", "full", "selective"]
FP32 = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What a micro-batch is, as far as memory cares."""

    rows: int
    context: int
    bytes: int = 2
    """Of an activation: 2 in bf16, 4 in fp32."""
    masked: bool = True
    """Documents share rows, so attention gets a mask of (rows, T, T) numbers (pretrain, finetune)."""
    document: float = 0.0
    """Tokens of the document that the mean token stands in, sum l^2 / sum l over the pieces of a row; 0: each
    row is one."""
    compiled_kernels: bool = True
    """The C++ row kernels are in use (a CPU with GCC)."""
    gpu_memory: float = 0.0
    """Bytes of the GPU that computes, after which the loss takes its chunks; 0: a CPU."""
    explicit_attention: bool = True
    """A CPU that may hold (T, T) probabilities of short contexts."""
    tiled_attention: bool = False
    """A CPU whose attention in bf16 holds none (kernels/tile_attention.py): with AVX512-BF16 or AMX."""
    flex_attention: bool = False
    """A GPU that goes through masks by blocks (kernels/flex.py)."""

    recasts: bool = True
    """A CPU whose linear layers cast their weights again in the backward pass (kernels/linear.py)."""

    ways: int = 1
    """Tensor-parallel ways, which deal out what lies between products along the sequence."""

    @property
    def tokens(self) -> int:
        """In the micro-batch."""
        return self.rows * self.context

    @property
    def seen(self) -> float:
        """Tokens of the mean token's document: what attention has to look at."""
        return self.document or float(self.context)

    def looked_at(self, shape: Shape) -> float:
        """Positions that attention looks at for the mean token, those behind it included: its document, in
        whole blocks at both ends, where masked blocks are passed over; else the row."""
        by_flex = self.flex_attention and self.context % BLOCK == 0
        side = PANEL if self.uses_tiles(shape) else BLOCK if by_flex else 0
        if not (self.masked and side):
            return float(self.context)
        return min(float(self.context), self.seen + 2 * side)

    def uses_tiles(self, shape: Shape) -> bool:
        """Whether attention goes through kernels/tile_attention.py."""
        fits = shape.head_dim % 32 == 0 and shape.head_dim <= MAX_HEAD
        return self.tiled_attention and self.bytes == 2 and fits

    def holds_probabilities(self, shape: Shape) -> bool:
        """Whether attention is written out (kernels/attention.py)."""
        short = self.masked and self.context <= EXPLICIT_MAX_LENGTH
        return self.explicit_attention and short and not self.uses_tiles(shape)


def layer_bytes(shape: Shape, batch: Batch) -> float:
    """Of one layer that is computed, for all tokens of the micro-batch. Tensor-parallel ways have whole
    sequences in front of products then, which `kept_bytes` leaves out."""
    q, k, a = shape.q_size, shape.kv_size, batch.bytes
    norms = FP32 * (2 / batch.ways + (shape.heads + shape.kv_heads if shape.qk_norm else 0))
    before_norm = a * (q + k) if shape.qk_norm else 0
    stream = 2 * a * shape.hidden * (1 + 1 / batch.ways)  # products read whole sequences
    return batch.tokens * (
        stream + before_norm + _attention(shape, batch) + norms + _feed_forward(shape, batch)
    )


def _attention(shape: Shape, batch: Batch) -> float:
    """Per token: what attention and the projection behind it keep."""
    q, k, a = shape.q_size, shape.kv_size, batch.bytes
    if batch.holds_probabilities(shape):
        return a * (q + 2 * k + q + shape.heads * batch.context)
    if batch.uses_tiles(shape):  # the mix as the projection takes it, and a log-sum per head
        return a * (q + 2 * k + q) + FP32 * shape.heads
    # The fused kernel gets keys and values repeated for every head, and keeps its mix, which is then laid out
    # anew for the projection, and a log-sum per head.
    return a * (3 * q + 2 * q) + FP32 * shape.heads


def _feed_forward(shape: Shape, batch: Batch) -> float:
    """Per token: gate, up and their product, and silu(gate) where the plain version runs; with experts, once
    for each that the token passes, with its copy of the input."""
    wide = 3 if batch.compiled_kernels else 4
    if not shape.gated:
        wide = 2
    if not shape.experts:
        return batch.bytes * wide * shape.feed_forward
    routed = shape.active_experts * (wide * shape.expert_width + shape.hidden) + wide * shape.shared_width
    own = (batch.bytes * routed + FP32 * shape.experts) / batch.ways
    return own - batch.bytes * shape.hidden * (1 - 1 / batch.ways)  # no whole sequence is read here


def cast_bytes(shape: Shape, batch: Batch) -> float:
    """The matrices within the blocks in the format of products, where that is not the weights' own. Where
    they are cast again: the stacks of experts, which are not."""
    if batch.bytes == FP32:
        return 0.0
    stacks = shape.moe_layers * shape.experts * (3 if shape.gated else 2) * shape.hidden * shape.expert_width
    return float(batch.bytes * (stacks if batch.recasts else shape.block_matrices))


def shared_bytes(shape: Shape, batch: Batch) -> float:
    """Kept once for all layers, beside casts of the weights: ids, the mask, the last norm's input and
    rotations."""
    mask = batch.bytes * batch.tokens * batch.context if batch.masked else 0
    last = batch.tokens * (batch.bytes * shape.hidden + FP32) / batch.ways
    angles = 2 * batch.bytes * batch.context * shape.head_dim
    return 8 * batch.tokens + mask + last + angles


def kept_bytes(
    shape: Shape,
    batch: Batch,
    checkpointing: Checkpointing = "none",
    every: int = 1,
    *,
    cast: bool = True,
) -> float:
    """All that the backward pass of the blocks needs. With full activation checkpointing (arXiv 1604.06174) a
    layer keeps its input, with selective (arXiv 2205.05198) also the results of its matrix products; one
    layer at a time is computed again. `every`: only each so-manieth layer does so. `cast`: whether weights
    are cast for products; those of a frozen model are held in their format."""
    one, casts = layer_bytes(shape, batch), cast_bytes(shape, batch) if cast else 0.0
    shared = shared_bytes(shape, batch) + casts
    if checkpointing == "none":
        return shape.layers * (one - _gathered_again(shape, batch)) + shared
    again = shape.layers // every
    kept = batch.bytes * batch.tokens * _kept_numbers(shape, batch, checkpointing)
    casts_again = (
        casts * (again - 1) / shape.layers
    )  # those of one layer are there while it is computed again
    return again * kept + (shape.layers - again + 1) * one + shared - max(0.0, casts_again)


def _gathered_again(shape: Shape, batch: Batch) -> float:
    """Of a layer's whole sequences, the tokens of other tensor-parallel ways: gathered again in the backward
    pass (training/tensor_parallel.py). Experts read none."""
    sequences = 1 if shape.experts else 2
    return sequences * batch.bytes * batch.tokens * shape.hidden * (1 - 1 / batch.ways)


def _kept_numbers(shape: Shape, batch: Batch, checkpointing: Checkpointing) -> float:
    """Per token of a layer that is computed again."""
    own = shape.hidden / batch.ways
    if checkpointing == "full":
        return own
    attention = 0 if batch.holds_probabilities(shape) else shape.q_size
    products = shape.q_size + 2 * shape.kv_size + 2 * shape.hidden + attention
    wide = (2 if shape.gated else 1) * (0 if shape.experts else shape.feed_forward)
    return own + products + wide


def loss_bytes(shape: Shape, batch: Batch, *, fused: bool = True, supervised: float = 1.0) -> float:
    """Held at the peak of the loss: one chunk of logits, the gradients of hidden states and head, the head in
    bf16. `supervised` is the share of tokens with a loss: where it is not all, their hidden states are copied
    out. Not fused (preferences), only the chunk and the hidden states are kept. A GPU is taken to have a
    compiler."""
    tokens, one_pass = batch.tokens * supervised, batch.compiled_kernels or batch.gpu_memory > 0
    chunk = min(tokens, chunk_size(shape.vocab, batch.gpu_memory, fused=one_pass))
    copies = batch.bytes if one_pass else batch.bytes + 2 * FP32
    logits = chunk * shape.vocab * copies
    head = shape.embedding * (FP32 + (batch.bytes if batch.bytes < FP32 else 0))
    hidden = tokens * shape.hidden * batch.bytes * (1 if supervised == 1.0 else 2)
    product = FP32 * shape.embedding  # logits.T @ hidden, added to the gradient of the head
    return logits + hidden + (head + product if fused else 0)


def turning_bytes(shape: Shape, batch: Batch) -> float:
    """Gradients within the last layer, where the backward pass turns into it and all is still kept: of three
    feed-forward widths and of three numbers of the stream."""
    wide = (3 if shape.gated else 2) * (
        shape.active_experts * shape.expert_width + shape.shared_width
        if shape.experts
        else shape.feed_forward
    )
    return float(batch.bytes * batch.tokens * (wide + 3 * shape.hidden))
