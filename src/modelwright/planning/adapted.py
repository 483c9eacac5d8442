"""What stays in memory where a model is frozen and an adapter beside it is trained.

The frozen weights are held in the format of products, or, where that is asked for, the matrices inside the
blocks in NF4 or 8 bits. Each parameter of the adapter takes 16 bytes: fp32, its gradient, AdamW's moments.
Nothing that is frozen has a gradient, so the loss makes none for the head, and no matrix is cast anew.
Activations are those of a full training, since each change needs its layer's input, and `rank` numbers more
for each of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from modelwright.planning.activations import FP32, Batch
from modelwright.planning.serving import FORMATS, NF4_DOUBLE
from modelwright.planning.shape import Shape
from modelwright.planning.tuning import adapter_parameters

CHANGED = 7
"""Linear layers in a block with a gated feed-forward network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """How a model is held beside its adapter, which changes all linear layers inside the blocks."""

    rank: int
    weights: str = "auto"
    """Format of the matrices inside the blocks: auto (that of products), nf4 or int8."""

    def trained(self, shape: Shape) -> int:
        """Parameters of the adapter."""
        return adapter_parameters(shape, self.rank)

    def held_bytes(self, shape: Shape, product: int) -> float:
        """Of the frozen weights and the adapter's; `product`: bytes of a number in products. One matrix at a
        time is unpacked where they are quantized."""
        each = {"nf4": NF4_DOUBLE, "int8": FORMATS["INT8"]}.get(self.weights, float(product))
        widest = shape.hidden * max(shape.feed_forward, shape.q_size)
        unpacked = 0 if each == product else product * widest
        rest = product * (shape.parameters - shape.block_matrices)
        return each * shape.block_matrices + unpacked + rest + FP32 * self.trained(shape)

    def kept_bytes(self, shape: Shape, batch: Batch) -> float:
        """What the changes add to the activations of a forward pass."""
        return batch.tokens * batch.bytes * self.rank * CHANGED * shape.layers
