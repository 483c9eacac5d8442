"""What a training step of ours holds, part by part, and its peak.

Kept from step to step, per parameter: weights 4 bytes, AdamW's moments 8 (Muon's momentum 4, for the
matrices in the blocks), 4 for each average of the weights. A step has three heights, and the highest counts:

    loss       activations, a chunk of logits, the gradients of hidden states and head
    backward   all gradients, 4 bytes, while the last layer's activations are still there
    update     all gradients, and what Muon needs to orthogonalise the largest group of equal matrices

On a CPU the process comes on top, and what its allocator cannot hand out again: a hole is not found again by
a block of its own size, so that each height takes more than it holds, and heights partly add up (measured:
`CPU_GROWTH`). On a GPU: the context, and the caching allocator's rounding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from modelwright.planning.activations import (
    FP32,
    Batch,
    Checkpointing,
    kept_bytes,
    layer_bytes,
    loss_bytes,
    turning_bytes,
)
from modelwright.planning.adapted import Frozen
from modelwright.planning.pieces import (
    dealt,
    gathered_bytes,
    largest_piece,
    scattered_bytes,
    treated,
    way_of,
)
from modelwright.planning.shape import Shape
from modelwright.planning.sharding import ALONE, Box
from modelwright.planning.taught import Teacher
from modelwright.planning.writing import Writing

MIB = 2**20
CPU_BASE = 373 * MIB
"""A process of ours with torch, pyarrow and a tokenizer, its libraries warm: resident memory, measured with
torch 2.13 on Linux."""
CPU_WARM = 60 * MIB
"""What training adds to it: what libraries build at their first products, and what a station reads."""
CPU_GROWTH = (0.2, 0.3)
"""What a process holds beyond each byte that is alive at its greatest height, and for each byte of the lesser
one of activations and update, which finds no room in the holes of the other: fitted to processes of 13 to 61
steps on Linux (glibc's malloc, which gives no aligned block back as one of the same size)."""
CUDA_BASE = 600 * MIB
"""CUDA context, cuBLAS workspaces. An assumption: not measured by us."""
ROUNDING = 1.06
"""Reserved over allocated on a GPU. An assumption from torch's caching allocator with expandable segments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """Settings of a training that memory and time depend on."""

    batch: Batch
    accumulation: int = 1
    steps: int = 1
    optimizer: Literal["adamw", "muon"] = "muon"
    even_neurons: bool = False
    """NorMuon: a running size is kept for each neuron."""
    averages: int = 1
    """Copies of the weights that are averaged over time (EMA)."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    fp8: bool = False
    """Linear layers inside the blocks are multiplied in 8 bits. Memory is counted as without."""
    checkpointing: Checkpointing = "none"
    checkpoint_every: int = 1
    """Only each so-manieth block is computed again."""
    kind: str = "cpu"
    """Of the machine: "cpu", "gpu" or "mac"."""
    fused_loss: bool = True
    """The loss makes its gradients at once; preferences do not."""
    supervised: float = 1.0
    """Share of the tokens with a loss."""
    rows_per_unit: int = 1
    """2 for preferences: a pair is two rows."""
    box: Box = ALONE
    """Devices that train together: who holds what, who reads which rows."""
    adaptable: bool = False
    """Whether the station could train an adapter instead."""
    frozen: Frozen | None = None
    """An adapter is trained beside a frozen model. None: all weights are trained."""
    teacher: Teacher | None = None
    """A frozen model whose probabilities are learned. None: the tokens alone are."""
    own: Writing | None = None
    """What the model writes itself, for its teacher. None: nothing."""

    def trained(self, shape: Shape) -> int:
        """Parameters that have a gradient."""
        return self.frozen.trained(shape) if self.frozen else shape.parameters

    @property
    def travels(self) -> int:
        """Bytes of a weight that is gathered from several devices: on a GPU those of products."""
        return self.batch.bytes if self.kind == "gpu" else FP32

    @property
    def gathers(self) -> bool:
        """Whether there are whole blocks on a device beside its own pieces."""
        return not self.frozen and self.box.devices > 1 and (self.box.shards > 1 or self.travels < FP32)

    @property
    def step_tokens(self) -> int:
        """Tokens of one update."""
        return self.batch.tokens * self.accumulation

    @property
    def dealt(self) -> tuple[int, int]:
        """(rows of a micro-batch, micro-batches of a step) of the device that gets most of them."""
        return dealt(self.batch.rows, self.accumulation, self.rows_per_unit, self.box)

    @property
    def device_tokens(self) -> int:
        """Tokens of one update that the device reads which gets most of them."""
        rows, micro = self.dealt
        return rows * micro * self.batch.context


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes by part at the peak of a step."""

    weights: float
    gradients: float
    optimizer: float
    averages: float
    activations: float
    loss: float
    workspace: float
    """What the update needs beside gradients."""
    overhead: float
    """What the allocator cannot hand out again."""
    base: float
    """The process before there is a model."""
    teacher: float
    """A frozen model that is learned from."""
    gathered: float
    """Whole weights beside the device's own pieces, while a block computes."""
    answers: float
    """The cache of what the model writes itself, and the weights that compiled steps hold for that."""
    peak: str
    """Which of the heights is the highest: "loss", "backward" or "update"."""

    @property
    def total(self) -> float:
        """Bytes at the peak."""
        return sum(self.parts.values())

    @property
    def parts(self) -> dict[str, float]:
        """Name -> bytes of what is there at the peak: parts of other heights are left out."""
        there = {
            "loss": ("activations", "loss", "gathered weights"),
            "backward": ("gradients", "last layer", "gathered weights"),
            "update": ("gradients", "workspace"),
        }[self.peak]
        moving = {
            "activations": self.activations,
            "loss": self.loss,
            "gradients": self.gradients,
            "workspace": self.workspace,
            "last layer": self.loss,
            "gathered weights": self.gathered,
        }
        always = {"weights": self.weights, "optimizer": self.optimizer, "averages": self.averages}
        rest = {"allocator": self.overhead, "process": self.base}
        always |= {"teacher": self.teacher} if self.teacher else {}
        always |= {"own answers": self.answers} if self.answers else {}
        now = {name: moving[name] for name in there if name != "gathered weights" or self.gathered}
        return {**always, **now, **rest}


def state_bytes(shape: Shape, training: Training) -> float:
    """What the optimizer keeps; adapters are AdamW's."""
    if training.frozen:
        return 2 * FP32 * training.frozen.trained(shape)
    return optimizer_bytes(shape, training.optimizer, even_neurons=training.even_neurons)


def optimizer_bytes(shape: Shape, optimizer: str, *, even_neurons: bool = False) -> float:
    """State of AdamW (two moments), and of Muon (one) for the matrices in the blocks; `even_neurons`: with a
    number for each row or column of them, whichever are more."""
    others = shape.parameters - shape.block_matrices
    per_matrix = 2 * FP32 if optimizer == "adamw" else FP32
    neurons = sum(count * max(rows, columns) for count, rows, columns in matrix_groups(shape))
    sizes = FP32 * neurons if even_neurons and optimizer == "muon" else 0
    return per_matrix * shape.block_matrices + sizes + 2 * FP32 * others


def update_bytes(shape: Shape, training: Training) -> float:
    """Muon's workspace for the largest group of equal matrices (training/optimizer.py): the Nesterov step in
    fp32, its cast to the format of products, three of them in the iteration, and two products of the shorter
    side with itself. Several devices treat a part of them each. AdamW, fused, needs none."""
    if training.optimizer == "adamw" or training.frozen:
        return 0.0
    width = training.batch.bytes
    cast = 0 if width == FP32 else width
    return max(
        treated(shape, count, rows, columns, training.box)
        * rows
        * columns
        * (FP32 + cast + 3 * width + 2 * width * min(rows, columns) / max(rows, columns))
        for count, rows, columns in matrix_groups(shape)
    )


def matrix_groups(shape: Shape) -> list[tuple[int, int, int]]:
    """(how many, rows, columns) of the blocks' matrices by shape; a stack of experts counts as its
    members."""
    dense, sides = shape.layers - shape.moe_layers, Counter[tuple[int, int]]()
    for rows, columns in ((shape.q_size, shape.hidden), (shape.hidden, shape.q_size)):
        sides[rows, columns] += shape.layers
    sides[shape.kv_size, shape.hidden] += 2 * shape.layers
    for width, layers in (
        (shape.feed_forward, dense),
        (shape.expert_width, shape.moe_layers * shape.experts),
    ):
        sides[width, shape.hidden] += layers * (2 if shape.gated else 1)
        sides[shape.hidden, width] += layers
    return [(count, *side) for side, count in sides.items() if count]


def own_bytes(shape: Shape, training: Training) -> float:
    """What stays in memory once a model has written answers of its own: keys and values, and on a CPU a copy
    of the weights for compiled steps."""
    own, product = training.own, training.batch.bytes
    if own is None:
        return 0.0
    copied = product * shape.parameters if own.compiled and training.kind == "cpu" else 0.0
    return own.cache_bytes(shape, product) + copied


def training_memory(shape: Shape, training: Training) -> Memory:
    """Memory of one device: the largest, where several train together. Each has its part of the weights,
    gradients and state, a few gathered blocks, and its rows (planning/pieces.py)."""
    whole, box = shape, training.box
    shape, part = way_of(whole, box.tensor), largest_piece(whole, box)
    rows, micro = training.dealt
    batch = replace(training.batch, rows=rows, ways=box.tensor)
    gathers, travels = training.gathers, training.travels
    casts = not training.frozen and not (gathers and travels < FP32)  # gathered in the format of products
    kept = kept_bytes(shape, batch, training.checkpointing, training.checkpoint_every, cast=casts)
    makes_gradients = training.fused_loss and not training.frozen  # none for a frozen head
    loss = loss_bytes(shape, batch, fused=makes_gradients, supervised=training.supervised)
    weights, gradients = FP32 * float(shape.parameters), FP32 * float(training.trained(shape))
    last = layer_bytes(shape, batch) + FP32 * shape.embedding
    turning = turning_bytes(shape, batch)
    taught = 0.0
    if training.teacher:
        taught = training.teacher.held_bytes(batch.bytes)
        passing = training.teacher.passing_bytes(batch)  # over before the loss begins
        loss = max(loss + training.teacher.loss_bytes(shape, batch, training.supervised), passing)
    if training.frozen:
        weights = training.frozen.held_bytes(shape, batch.bytes)
        kept += training.frozen.kept_bytes(shape, batch)
        last -= FP32 * shape.embedding
    gathered = gathered_bytes(shape, travels) if gathers else 0.0
    of_block, of_root = scattered_bytes(shape, travels) if gathers else (0.0, 0.0)
    last = max(last + of_block, of_root)
    weights, gradients = weights * part, gradients * part
    averages, state = gradients * training.averages, state_bytes(shape, training) * part
    accumulated = gradients if micro > 1 else 0.0
    update = update_bytes(whole, training)
    heights = {
        "loss": kept + max(loss, turning) + accumulated + gathered,
        "backward": gradients + last + gathered,
        "update": gradients + update,
    }
    peak = max(heights, key=lambda name: heights[name])
    answers = own_bytes(shape, training)
    always = weights + averages + state + taught + answers
    return Memory(
        weights=weights,
        gradients=gradients,
        optimizer=state,
        averages=averages,
        activations=kept + accumulated,
        loss=max(loss, turning) if peak == "loss" else last,
        workspace=update,
        teacher=taught,
        gathered=gathered,
        answers=answers,
        overhead=_overhead(heights, always, training.kind),
        base=CPU_BASE if training.kind == "cpu" else CUDA_BASE,
        peak=peak,
    )


def _overhead(heights: Mapping[str, float], always: float, kind: str) -> float:
    """What a process holds beyond what is alive at its highest."""
    highest = max(heights.values())
    if kind != "cpu":
        return (ROUNDING - 1) * (always + highest)
    at_highest, at_lesser = CPU_GROWTH
    return CPU_WARM + at_highest * highest + at_lesser * min(heights["loss"], heights["update"])


def with_rows(training: Training, rows: int) -> Training:
    """The same updates in micro-batches of `rows` rows: accumulation makes up for it."""
    total = training.batch.rows * training.accumulation
    return replace(training, batch=replace(training.batch, rows=rows), accumulation=-(-total // rows))
