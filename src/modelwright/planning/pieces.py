"""What one device of several has of a training of ours: which part of the weights, which rows, which
matrices.

Devices stand in a box of replicas x shards x tensor-parallel ways, as training/parallel.py places processes:

    ways      each computes its heads, its part of the feed-forward network and its words of the embedding and
              the head, and holds norms and experts whole for its own tokens (Megatron, arXiv 1909.08053 and
              2205.05198; model/sharding.py)
    shards    each holds a part of every tensor's first axis, rounded up (FSDP2, arXiv 2304.11277): of a stack
              of 8 experts, eight devices hold one each, and any more hold none
    rows      micro-batches are dealt out whole where that comes out even, else each is cut by rows
              (training/spread.py)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from modelwright.base.errors import ConfigError
from modelwright.planning.shape import Shape
from modelwright.planning.sharding import PREFETCHED, Box


def way_of(shape: Shape, ways: int) -> Shape:
    """The network that one of several tensor-parallel ways holds. Raises ConfigError where heads or features
    cannot be dealt out evenly."""
    if ways == 1:
        return shape
    if shape.other_biases or shape.all_biases:
        raise ConfigError(f"{ways} tensor-parallel ways: {shape.name} adds biases to what they would sum")
    sizes = {"query heads": shape.heads, "key/value heads": shape.kv_heads}
    sizes |= {} if shape.experts and not shape.dense_layers else {"feed-forward features": shape.feed_forward}
    if uneven := [f"{size} {name}" for name, size in sizes.items() if size % ways]:
        raise ConfigError(f"{ways} tensor-parallel ways: expected a number that divides {uneven[0]}")
    return replace(
        shape,
        vocab=-(-shape.vocab // ways),
        heads=shape.heads // ways,
        kv_heads=shape.kv_heads // ways,
        feed_forward=shape.feed_forward // ways,
    )


def largest_piece(shape: Shape, box: Box) -> float:
    """Of the parameters of a way, the share that the first device of its shards holds: no other holds
    more."""
    own = way_of(shape, box.tensor)
    held = sum(numbers * -(-rows // box.shards) / rows for rows, numbers in _tensors(own) if numbers)
    return held / own.parameters


def _tensors(shape: Shape) -> Iterator[tuple[int, float]]:
    """(length of the first axis, numbers in all tensors of such a length)."""
    d, q, kv, f = shape.hidden, shape.q_size, shape.kv_size, shape.feed_forward
    dense = shape.layers - shape.moe_layers
    yield shape.vocab, shape.embedding * (1 if shape.tied else 2)
    yield q, shape.layers * q * d
    yield kv, 2 * shape.layers * kv * d
    yield d, shape.layers * q * d + dense * f * d + shape.small
    yield f, dense * f * d * (2 if shape.gated else 1)
    yield shape.experts, shape.feed_forward_weights() - dense * f * d * (3 if shape.gated else 2)


def uncut_parameters(shape: Shape) -> int:
    """Whole on every tensor-parallel way: norms, routers and experts."""
    dense = (shape.layers - shape.moe_layers) * shape.hidden * shape.feed_forward * (3 if shape.gated else 2)
    return shape.small + shape.feed_forward_weights() - dense


def block_parameters(shape: Shape) -> float:
    """Of one block; what no block holds (embedding, head, last norm) is gathered apart."""
    return (shape.parameters - root_parameters(shape)) / shape.layers


def root_parameters(shape: Shape) -> int:
    """Outside of the blocks."""
    return shape.embedding * (1 if shape.tied else 2) + shape.hidden + shape.positions * shape.hidden


def gathered_bytes(own: Shape, travels: int) -> float:
    """Whole weights on a device at once: a few blocks, and embedding and head during all of a step.
    `travels`: bytes of a number when it is gathered."""
    return travels * (min(PREFETCHED, own.layers) * block_parameters(own) + root_parameters(own))


def scattered_bytes(own: Shape, travels: int) -> tuple[float, float]:
    """(of a block, of what lies outside of blocks) whole gradients before each device gets its part: as they
    were made, and in fp32 for the sum."""
    each = travels + 4
    return each * block_parameters(own), each * float(root_parameters(own))


def dealt(rows: int, accumulation: int, unit: int, box: Box) -> tuple[int, int]:
    """(rows of a micro-batch, micro-batches of a step) of the reader that gets most; `unit`: rows that stay
    together."""
    if accumulation % box.readers == 0:
        return rows, accumulation // box.readers
    return -(-(rows // unit) // box.readers) * unit, accumulation


def treated(shape: Shape, count: int, rows: int, columns: int, box: Box) -> int:
    """Of `count` equal matrices, those that the device with most of them orthogonalises for Muon: whole
    parameters are dealt out, and a stack of experts is one."""
    together = shape.experts if shape.experts and shape.expert_width in (rows, columns) else 1
    return min(count, -(-count // (together * box.held_by)) * together)
