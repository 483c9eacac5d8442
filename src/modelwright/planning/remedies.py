"""What would make a training fit, in the order in which one should try: first what changes nothing but memory
and speed, then what costs arithmetic, then what changes the training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from modelwright.planning.machines import Machine
from modelwright.planning.memory import Training, training_memory, with_rows
from modelwright.planning.shape import Shape
from modelwright.planning.sharding import STATE_BYTES
from modelwright.planning.tuning import METHODS, Method, TuningBatch, tuning_memory


@dataclass(frozen=True, slots=True)
class Remedy:
    """Something to change."""

    what: str
    setting: str
    """As it would be set; "" where it is no setting of a recipe."""
    total: float
    """Bytes at the peak when it is done, together with those before it."""
    effect: str
    """What else it changes."""


def remedies(shape: Shape, training: Training, limit: float) -> list[Remedy]:
    """In order, each on top of those before it, until the training fits in `limit` bytes; then it ends."""
    found: list[Remedy] = []
    for remedy in _steps(shape, training, limit):
        if not found or remedy.total < found[-1].total:
            found.append(remedy)
        if remedy.total <= limit:
            break
    return found


def _steps(shape: Shape, training: Training, limit: float) -> Iterator[Remedy]:
    now = training
    if now.dtype == "float32":
        now = replace(now, dtype="bfloat16", batch=replace(now.batch, bytes=2))
        yield _remedy("products and activations in bf16", "compute.dtype=bfloat16", shape, now, "faster, too")
    if now.batch.rows > 1:
        now = _fewer_rows(shape, now, limit)
        what = f"{now.batch.rows} rows in a micro-batch, {now.accumulation} of them a step"
        setting = f"rows={now.batch.rows}, accumulation={now.accumulation}"
        yield _remedy(what, setting, shape, now, "the same gradient")
    for kind, cost in (("selective", "about 7 %"), ("full", "a third")):
        now = replace(now, checkpointing=kind)
        setting = f"compute.activation_checkpointing={kind}"
        yield _remedy(f"{kind} activation checkpointing", setting, shape, now, f"{cost} more arithmetic")
    if now.optimizer == "adamw":
        now = replace(now, optimizer="muon")
        yield _remedy(
            "Muon instead of AdamW", "optimizer.kind=muon", shape, now, "another optimizer: tune it"
        )
    for ways in (2, 4, 8):
        kept = training_memory(shape, now).total - STATE_BYTES * shape.parameters * (1 - 1 / ways)
        yield Remedy(f"sharded over {ways} devices (FSDP)", f"torchrun, {ways} processes", kept, "needs them")


def _fewer_rows(shape: Shape, training: Training, limit: float) -> Training:
    """Rows are halved until the training fits, down to one."""
    now = training
    while now.batch.rows > 1 and training_memory(shape, now).total > limit:
        now = with_rows(now, -(-now.batch.rows // 2))
    return now


def _remedy(what: str, setting: str, shape: Shape, training: Training, effect: str) -> Remedy:
    return Remedy(what, setting, training_memory(shape, training).total, effect)


def tuning_ways(
    shape: Shape, batch: TuningBatch, machine: Machine | None
) -> list[tuple[Method, float, bool]]:
    """(method, bytes, fits) for every way to fine-tune, the most thorough first."""
    ways: list[tuple[Method, float, bool]] = []
    for method in METHODS:
        size = tuning_memory(shape, method, batch).total
        ways.append((method, size, machine is None or size <= machine.memory))
    return ways
