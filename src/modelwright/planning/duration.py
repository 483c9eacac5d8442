"""How long a training takes: arithmetic over the rate that a machine reaches, plus what is bound by memory.

    step = FLOPs / (rate x efficiency) + bytes of the update / bandwidth + a constant

`rate` is that of a large matrix product: measured here, or stated by the vendor. Efficiency is what a whole
forward and backward pass reaches of it: narrow matrices, attention, norms and the loss are slower. On this
machine's CPU it is measured, with small networks (planning/trial_steps.py); a rehearsal of a few real steps
(`--probe`) replaces the whole formula. On GPUs it is a share that good engines reach, stated with its source,
for as long as nobody has measured ours there.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from modelwright.planning.activations import FP32
from modelwright.planning.eight_bits import seconds_saved
from modelwright.planning.exchange import exchange
from modelwright.planning.machines import Machine
from modelwright.planning.memory import Training, matrix_groups, state_bytes
from modelwright.planning.shape import Shape

CPU_EFFICIENCY = ((128, 0.5), (256, 0.65), (512, 0.8))
"""An assumption, for a CPU on which no steps were tried: between two kinds of processors in both formats."""
GPU_EFFICIENCY = ((768, 0.35), (2048, 0.42), (4096, 0.45))
"""bf16, compiled. An assumption: torchtitan reaches 33 to 39 % on Llama 3.1 8B, nanochat 41 to 50 % at
widths of 768 to 1536, modded-nanogpt about 40 % at 768. The same share is
taken of fp32's own rate."""
MAC_EFFICIENCY = ((768, 0.30),)
"""An assumption: not measured by us."""
MUON_ITERATIONS = 5
STEP_CONSTANT = 0.01
"""Seconds a step for what does not grow with it: batches, metrics, the progress bar."""
START = 1.0
"""Seconds of opening inputs, of the forecast itself, and of what the first step builds once."""
DISK = 5e8
"""Bytes per second of writing and hashing checkpoints: a usual SSD."""
FORWARD_SHARE = 1 / 3
"""Of a training step's arithmetic: what measuring costs a token (2 of 6 FLOPs a weight)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a station does, as far as time cares."""

    steps: int
    share: float = 1.0
    """Of the largest micro-batch that the mean one is: rows of unequal length are padded to their longest."""
    measured_tokens: int = 0
    """Held-out tokens that are read, over all measurements."""
    reference_tokens: int = 0
    """Tokens of a frozen reference's forward pass."""
    checkpoints: int = 0
    """Checkpoints that are written."""
    reading: float = 0.0
    """Seconds of reading and tokenizing what is learned from."""


@dataclass(frozen=True, slots=True)
class Duration:
    """Seconds by part."""

    steps: float
    measuring: float
    checkpoints: float
    start: float
    efficiency: float
    """Share of the machine's matmul rate in forward and backward."""
    source: str
    """How it was found: "trial" (small networks, here), "assumption" or "rehearsal"."""
    writing: float = 0.0
    """Answers of the model's own, at most."""

    @property
    def total(self) -> float:
        """Seconds."""
        return self.steps + self.measuring + self.checkpoints + self.start + self.writing


def efficiency(machine: Machine, width: int, dtype: str, context: int) -> float:
    """Share of the matmul rate that forward and backward of a network this wide reach on rows this long."""
    if tried := machine.step_rates.get(dtype):
        by_width = {
            wide: sorted((long, rate) for w, long, rate in tried if w == wide) for wide, _, _ in tried
        }
        rates = [(wide, interpolate(rows, context)) for wide, rows in sorted(by_width.items())]
        return interpolate(rates, width) / machine.rate(dtype)
    tables = {"cpu": CPU_EFFICIENCY, "gpu": GPU_EFFICIENCY}
    return interpolate(tables.get(machine.kind, MAC_EFFICIENCY), width)


def _efficiency(shape: Shape, training: Training, machine: Machine) -> float:
    return efficiency(machine, shape.hidden, training.dtype, training.batch.context)


def interpolate(table: Sequence[tuple[int, float]], width: int) -> float:
    """Between the neighbours in a table; its ends go on as they are."""
    place = bisect_left([known for known, _ in table], width)
    if place == 0:
        return table[0][1]
    if place == len(table):
        return table[-1][1]
    (low, at_low), (high, at_high) = table[place - 1], table[place]
    return at_low + (at_high - at_low) * (width - low) / (high - low)


def step_seconds(shape: Shape, training: Training, machine: Machine) -> float:
    """One update, by the formula; of several devices, on the one that reads most. Gathering and scattering
    pass behind arithmetic, sums over replicas behind that of the last micro-batch; what tensor-parallel ways
    and the optimizer send does not, nor what an adapter's replicas do."""
    rate = machine.rate(training.dtype)
    forward = _forward_flops(shape, training) * training.device_tokens / training.box.tensor
    passes = {"none": 3.0, "selective": 3.2, "full": 4.0}[training.checkpointing]
    if training.frozen:  # no gradient of frozen weights; the adapter's own products are small
        passes -= 1 - 3 * training.trained(shape) / shape.parameters
    share = _efficiency(shape, training, machine)
    arithmetic = passes * forward / (rate * share)
    arithmetic -= seconds_saved(shape, training, machine, passes, share)
    shards, replicas, between = exchange(shape, training).seconds(training.box, machine)
    spare = 0.0 if training.frozen else max(0.0, arithmetic - shards) / training.dealt[1]
    sending = between + max(0.0, replicas - spare)
    return max(arithmetic, shards) + sending + update_seconds(shape, training, machine) + STEP_CONSTANT


def _forward_flops(shape: Shape, training: Training) -> float:
    """Of a token, on average: attention looks at what its kernel does not pass over, and logits are made
    where there is a loss, and nowhere else."""
    unread = (1 - training.supervised) * 2.0 * shape.vocab * shape.hidden
    return shape.forward_flops(training.batch.looked_at(shape)) - unread


def teacher_seconds(training: Training, machine: Machine) -> float:
    """What a teacher takes of an update: a forward pass over its rows."""
    if training.teacher is None:
        return 0.0
    shape = training.teacher.shape
    flops = shape.forward_flops(training.batch.looked_at(shape)) * training.device_tokens
    return flops / (machine.rate(training.dtype) * _efficiency(shape, training, machine))


def own_seconds(shape: Shape, training: Training, machine: Machine) -> float:
    """What the answers take, over the whole training, that a model writes itself."""
    if training.own is None:
        return 0.0
    weights = float(training.batch.bytes * shape.parameters)
    return training.own.seconds(shape, machine, training.dtype, weights)


def update_seconds(shape: Shape, training: Training, machine: Machine) -> float:
    """The optimizer and the averages: every number of their state is read and written once, gradients are
    read three times (norm, clipping, update); Muon's iteration is three products each."""
    state = 2 * state_bytes(shape, training)
    weights = FP32 * training.trained(shape)
    moved = state + weights * (2 + 3 + 3 * training.averages)
    seconds = moved / machine.bandwidth
    if training.optimizer == "muon" and not training.frozen:
        seconds += muon_flops(shape) / (
            machine.rate(training.dtype) * _muon_efficiency(shape, training, machine)
        )
    return seconds / training.box.held_by


def _muon_efficiency(shape: Shape, training: Training, machine: Machine) -> float:
    """Share of the matmul rate in the iteration: on a CPU as in forward and backward (measured: 0.92 to 1.07
    of that); elsewhere an assumption."""
    if machine.kind != "cpu":
        return 0.5
    return _efficiency(shape, training, machine)


def muon_flops(shape: Shape) -> float:
    """Newton-Schulz on every matrix of the blocks, s <= l the shorter and longer side: a step is two
    products of (s, l) with (s, s) and one (s, s) with (s, s)."""
    return MUON_ITERATIONS * sum(
        count * _iteration_flops(rows, columns) for count, rows, columns in matrix_groups(shape)
    )


def _iteration_flops(rows: int, columns: int) -> float:
    short, long = min(rows, columns), max(rows, columns)
    return 2.0 * (2 * short * short * long + short**3)


def forecast_duration(
    shape: Shape,
    training: Training,
    work: Work,
    machine: Machine,
    rehearsed: float | None = None,
) -> Duration:
    """All of a station. `rehearsed`: seconds of a step as measured, in place of the formula."""
    step = rehearsed if rehearsed is not None else step_seconds(shape, training, machine)
    taught = teacher_seconds(training, machine)  # a rehearsal has no teacher either
    share = _efficiency(shape, training, machine)
    flops = 3 * _forward_flops(shape, training) * training.device_tokens / training.box.tensor
    if rehearsed is not None:
        share = flops / (machine.rate(training.dtype) * max(rehearsed, 1e-9))
    per_token = FORWARD_SHARE * step / training.step_tokens
    read = work.measured_tokens + work.reference_tokens
    update = min(step, update_seconds(shape, training, machine))  # no shorter where rows are
    saved = FP32 * training.trained(shape) * (1 + training.averages) + state_bytes(shape, training)
    return Duration(
        steps=work.steps * ((step - update + taught) * work.share + update),
        measuring=read * per_token,
        checkpoints=work.checkpoints * saved / DISK,
        start=START + FP32 * shape.parameters / 1e9 + work.reading,
        efficiency=share,
        source="rehearsal" if rehearsed is not None else _source(training, machine),
        writing=own_seconds(shape, training, machine),
    )


def _source(training: Training, machine: Machine) -> str:
    return "trial" if machine.step_rates.get(training.dtype) else "assumption"
