"""What it takes to run a model: weights in some format, the cache of keys and values, a little beside.

    weights  = parameters x bytes of the format (embedding, head and norms of quantized models stay in 16 bit)
    cache    = 2 x layers x kv heads x head size x context x sequences x bytes of a number
    beside   = one layer's activations and the logits of the last positions, and the framework

Decoding reads every active weight and the cache once for each token: bandwidth bounds its speed.
"""

from __future__ import annotations

from dataclasses import dataclass

from modelwright.planning.machines import Machine
from modelwright.planning.shape import Shape

FORMATS = {
    "FP32": 4.0,
    "FP16": 2.0,
    "INT8": 1.0 + 4 / 4096,
    "INT4": 0.5 + 2.0 / 128 + 0.5 / 128,
    "NF4": 0.5 + 1 / 64 * 4,
}
"""Bytes a weight. INT8: a scale in fp32 for each row. INT4: a scale in 16 bit and a zero in 4 for each 128
weights (GPTQ, AWQ). NF4: a scale in fp32 for each 64 (QLoRA, arXiv 2305.14314, without double
quantization)."""
NF4_DOUBLE = 0.5 + 0.127 / 8
"""NF4 with quantized scales: 0.127 bits a weight (QLoRA, section 3)."""
QUANTIZED = ("INT8", "INT4", "NF4")
PREFILL = 512
"""Positions whose activations exist at once while a prompt is read, in pieces."""


@dataclass(frozen=True, slots=True)
class Running:
    """Bytes of a model that answers."""

    format: str
    weights: float
    cache: float
    beside: float

    @property
    def total(self) -> float:
        """Bytes."""
        return self.weights + self.cache + self.beside


def weight_bytes(shape: Shape, format: str) -> float:
    """Weights on disk and in memory. Quantizers take the matrices of the blocks and leave the rest in 16
    bit."""
    per_weight = FORMATS[format]
    if format not in QUANTIZED:
        return per_weight * shape.parameters
    return per_weight * shape.block_matrices + 2.0 * (shape.parameters - shape.block_matrices)


def cache_bytes(shape: Shape, context: int, sequences: int = 1, bytes_each: float = 2.0) -> float:
    """Keys and values of all layers."""
    return 2.0 * shape.layers * shape.kv_size * context * sequences * bytes_each


def running_memory(shape: Shape, format: str, context: int, sequences: int = 1) -> Running:
    """What a model with `sequences` open answers of `context` tokens holds, the framework's base not
    counted."""
    positions = min(PREFILL, context)
    wide = max(shape.feed_forward, shape.active_experts * shape.expert_width)
    layer = positions * 2.0 * (4 * shape.hidden + 3 * wide + 3 * shape.q_size)
    logits = sequences * shape.vocab * 4.0
    cache = cache_bytes(shape, context, sequences, 4.0 if format == "FP32" else 2.0)
    return Running(format, weight_bytes(shape, format), cache, layer + logits)


def tokens_per_second(shape: Shape, format: str, context: int, machine: Machine) -> float:
    """At most so many tokens a second for one sequence: active weights and cache are read for each."""
    active = shape.active_parameters - (0 if shape.tied else shape.embedding)  # a look-up reads one row
    share = weight_bytes(shape, format) / shape.parameters
    return machine.bandwidth / (share * active + cache_bytes(shape, context))
