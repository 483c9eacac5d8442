"""What it takes to fine-tune a model on GPUs as the field does it: in full, with LoRA, with QLoRA.

Bytes a parameter that stay from step to step:

    full, mixed precision   18 = weights 4, their 16-bit copy 2, gradients 4, AdamW 8 (ZeRO, arXiv 1910.02054,
                            counts 16, with gradients in 16 bit)
    full, fp32 weights      16 = weights 4, gradients 4, AdamW 8; casts are made in passing (FSDP2, ours)
    full, pure 16 bit        8 = weights 2, gradients 2, AdamW 4
    LoRA                     2 for the frozen base, 16 for the adapters (arXiv 2106.09685)
    QLoRA                    0.52 for the base's matrices (NF4), 2 for embedding and head, 16 for adapters

and activations: a stock implementation in torch, eager, keeps `stock_numbers` a token and layer; with
activation checkpointing a layer keeps its input alone. Logits of all positions in 16 and 32 bit come on top.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from modelwright.planning.serving import NF4_DOUBLE, weight_bytes
from modelwright.planning.shape import Shape

Method = Literal["full", "full-fp32", "full-16bit", "lora", "lora-8bit", "qlora"]
METHODS: dict[Method, str] = {
    "full": "full, mixed",
    "full-fp32": "full, fp32",
    "full-16bit": "full, 16 bit",
    "lora": "LoRA, 16 bit",
    "lora-8bit": "LoRA, 8 bit",
    "qlora": "QLoRA, NF4",
}
FULL_BYTES = {"full": (4 + 2, 4, 8), "full-fp32": (4, 4, 8), "full-16bit": (2, 2, 4)}
"""Weights, gradients, optimizer."""
ADAPTER_BYTES = 16.0
"""fp32 weights, gradients, two moments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningBatch:
    """What is on the device at once."""

    rows: int = 1
    context: int = 2048
    checkpointing: bool = True
    """A layer keeps its input, and is computed again."""
    rank: int = 16
    """Of the adapters."""
    targets: Literal["qv", "attention", "all"] = "all"
    """Which matrices get one."""
    fp32_logits: bool = True
    """Logits of all positions are cast to fp32 and normalised there: 2 + 4 + 4 + 4 bytes a number, as stock
    implementations do; a chunked loss (ours, Liger) holds next to nothing."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """Bytes by part."""

    method: Method
    weights: float
    gradients: float
    optimizer: float
    adapters: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        """Bytes, without the framework's context."""
        parts = (self.weights, self.gradients, self.optimizer, self.adapters, self.activations, self.logits)
        return sum(parts)


def adapter_parameters(shape: Shape, rank: int, targets: str = "all") -> int:
    """Weights of LoRA: rank x (inputs + outputs) for each adapted matrix; experts are not adapted."""
    d, q, kv, f = shape.hidden, shape.q_size, shape.kv_size, shape.feed_forward
    sides = {"qv": [(d, q), (d, kv)], "attention": [(d, q), (d, kv), (d, kv), (q, d)]}
    wide = [] if shape.experts else [(d, f)] * (2 if shape.gated else 1) + [(f, d)]
    chosen = sides.get(targets, sides["attention"] + wide)
    return shape.layers * rank * sum(a + b for a, b in chosen)


def tuning_memory(shape: Shape, method: Method, batch: TuningBatch) -> Tuning:
    """Memory of one device that holds the whole model."""
    activations, logits = stock_activations(shape, batch, frozen=method not in FULL_BYTES)
    if method in FULL_BYTES:
        weights, gradients, optimizer = (each * float(shape.parameters) for each in FULL_BYTES[method])
        return Tuning(method, weights, gradients, optimizer, 0.0, activations, logits)
    rest = 2.0 * (shape.parameters - shape.block_matrices)
    base = {
        "lora": 2.0 * shape.parameters,
        "lora-8bit": weight_bytes(shape, "INT8"),
        "qlora": NF4_DOUBLE * shape.block_matrices + rest,
    }[method]
    adapters = ADAPTER_BYTES * adapter_parameters(shape, batch.rank, batch.targets)
    # One matrix at a time is unpacked to 16 bit; an eager framework holds the widest of them.
    unpacked = 0.0 if method == "lora" else 2.0 * shape.hidden * max(shape.feed_forward, shape.q_size)
    return Tuning(method, base + unpacked, 0.0, 0.0, adapters, activations, logits)


def stock_numbers(shape: Shape) -> float:
    """16-bit numbers that a stock eager block keeps a token: norms keep their input in fp32, its normalised
    form twice; queries and keys before and after rotation; FlashAttention its inputs and mix; SwiGLU gate,
    silu(gate), up and their product."""
    norms = 2 * (2 + 1 + 1) * shape.hidden
    attention = 3 * shape.q_size + 3 * shape.kv_size + shape.q_size
    wide = (4 if shape.gated else 2) * (shape.feed_forward if not shape.experts else 0)
    routed = 4 * shape.active_experts * shape.expert_width + shape.active_experts * shape.hidden
    return norms + attention + wide + (routed if shape.experts else 0) + 2 * shape.hidden


def _not_kept_when_frozen(shape: Shape, targets: str) -> float:
    """Inputs of frozen matrices without an adapter: no gradient asks for them."""
    return 0.0 if targets == "all" or shape.experts else shape.feed_forward + shape.hidden


def stock_activations(shape: Shape, batch: TuningBatch, *, frozen: bool = False) -> tuple[float, float]:
    """(activations, logits) in bytes."""
    tokens = batch.rows * batch.context
    left_out = _not_kept_when_frozen(shape, batch.targets) if frozen else 0.0
    per_layer = 2.0 * (stock_numbers(shape) - left_out)
    if batch.checkpointing:
        activations = tokens * (2.0 * shape.hidden * shape.layers + per_layer)
    else:
        activations = tokens * per_layer * shape.layers
    return activations, tokens * shape.vocab * (14.0 if batch.fp32_logits else 0.0)
