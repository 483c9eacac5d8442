"""What a device of several sends in one step of a training of ours, and how long that takes.

For each micro-batch, with p the parameters of a way, b those within blocks, n its tokens, D the width, a
bytes of a number in products and w bytes of a weight that travels (2 on a GPU in bf16, else 4):

    to shards     blocks are gathered twice and the rest once, w (p + b) (S-1)/S; gradients are scattered in
                  fp32, 4 p (S-1)/S
    to replicas   once a step, with the last micro-batch: all-reduce of the scattered gradients, or of an
                  adapter's, 2 x 4 p/S (R-1)/R
    to ways       a n D (T-1)/T for each time that tokens are gathered or dealt out: in a block before and
                  behind attention and before and behind a dense feed-forward part, and the same backwards;
                  around embedding and last norm five times. What was gathered before is gathered again in the
                  backward pass; with checkpointing a block does all forward ones again, but for the last of a
                  dense one. Once a step, gradients of what is whole on each way: 2 x 4 (T-1)/T bytes a number

and once a step Muon brings each matrix together and sends it back: the device's pieces, twice, in the format
of products. Held against what processes really send in tests/planning/test_several.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from modelwright.planning.activations import FP32
from modelwright.planning.machines import Machine
from modelwright.planning.memory import Training
from modelwright.planning.pieces import block_parameters, largest_piece, uncut_parameters, way_of
from modelwright.planning.shape import Shape
from modelwright.planning.sharding import Box, wire_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """Bytes that leave a device in a step, by those they go to."""

    shards: float = 0.0
    replicas: float = 0.0
    tensor: float = 0.0
    optimizer: float = 0.0
    """To those that hold a copy with it: matrices that Muon orthogonalises."""

    @property
    def total(self) -> float:
        """Bytes."""
        return self.shards + self.replicas + self.tensor + self.optimizer

    def seconds(self, box: Box, machine: Machine) -> tuple[float, float, float]:
        """(to shards, to replicas, what cannot pass behind arithmetic)."""
        shards, replicas, ways = wire_seconds(box, machine, self.shards, self.replicas, self.tensor)
        update, _, _ = wire_seconds(box, machine, self.optimizer, 0.0, 0.0)
        return shards, replicas, ways + update


def exchange(shape: Shape, training: Training) -> Exchange:
    """Of the device that reads most."""
    box, (rows, micro) = training.box, training.dealt
    other_shards, other_replicas, other_ways, others = (
        (count - 1) / count for count in (box.shards, box.replicas, box.tensor, box.held_by)
    )
    if training.frozen:  # whole on every device; what learns is added up once a step
        return Exchange(replicas=2 * FP32 * training.trained(shape) * other_replicas)
    own = way_of(shape, box.tensor)
    blocks = own.layers * block_parameters(own)
    even = box.shards * largest_piece(shape, box)  # pieces travel filled up to the largest
    gathered = training.travels * (own.parameters + blocks) * even
    scattered = FP32 * own.parameters * even
    stream = training.batch.bytes * rows * training.batch.context * shape.hidden
    uncut = 2 * FP32 * uncut_parameters(shape) / box.shards
    by_muon = training.optimizer == "muon"
    matrices = own.block_matrices * largest_piece(shape, box) if by_muon else 0.0
    return Exchange(
        shards=micro * (gathered + scattered) * other_shards,
        replicas=2 * scattered / box.shards * other_replicas,
        tensor=(micro * _passages(shape, training) * stream + uncut) * other_ways,
        optimizer=2 * training.batch.bytes * matrices * others,
    )


def _passages(shape: Shape, training: Training) -> float:
    """How often a micro-batch's hidden states are gathered or dealt out among tensor-parallel ways."""
    dense = shape.layers - shape.moe_layers
    gathered = shape.layers + dense  # and dealt out as often, in either direction
    if training.checkpointing == "none":
        return 5 * gathered + 5
    again = (shape.layers // training.checkpoint_every) / shape.layers
    return 4 * gathered + 5 + again * (2 * gathered - dense)
