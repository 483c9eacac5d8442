"""What would make a training fit, in the order in which one should try: first what changes nothing but memory
and speed, then what costs arithmetic, then what changes the training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from modelwright.base.metrics import counted
from modelwright.planning.adapted import Frozen
from modelwright.planning.machines import Machine
from modelwright.planning.memory import Training, training_memory, with_rows
from modelwright.planning.shape import Shape
from modelwright.planning.sharding import Box
from modelwright.planning.tuning import METHODS, Method, TuningBatch, tuning_memory

SENT = "more is sent between devices"
RANK = 16
"""Of an adapter where nobody says another (model/adaptation.py)."""


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
    if now.box.replicas > 1 and not now.frozen:
        now = _over(now, now.box.devices)
        yield _remedy(
            f"one copy over all {now.box.devices} devices (FSDP)", "compute.shard=fsdp", shape, now, SENT
        )
    fewer = _fewer_rows(shape, now, limit)
    if fewer.dealt[0] < now.dealt[0]:
        now, (rows, micro) = fewer, fewer.dealt
        many = counted(rows, "row")
        what = f"{many} in a micro-batch, {micro} of them a step"
        if now.box.readers > 1:
            what = f"{many} on a device at once, {counted(micro, 'time')} a step"
        setting = f"rows={now.batch.rows // now.rows_per_unit}, accumulation={now.accumulation}"
        yield _remedy(what, setting, shape, now, "the same gradient")
    for kind, cost in (("selective", "about 7 %"), ("full", "a third")):
        now = replace(now, checkpointing=kind)
        setting = f"compute.activation_checkpointing={kind}"
        yield _remedy(f"{kind} activation checkpointing", setting, shape, now, f"{cost} more arithmetic")
    if now.optimizer == "adamw" and not now.frozen:
        now = replace(now, optimizer="muon")
        yield _remedy(
            "Muon instead of AdamW", "optimizer.kind=muon", shape, now, "another optimizer: tune it"
        )
    beside = replace(now, frozen=Frozen(rank=RANK), box=Box(replicas=now.box.devices))
    if now.adaptable and _total(shape, beside) < _total(shape, now):
        now = beside
        what = f"an adapter of rank {RANK} (LoRA) beside frozen weights"
        yield _remedy(what, f"adapter.rank={RANK}", shape, now, "another training: tune its rate")
    if now.frozen:
        yield from _smaller_weights(shape, now)
        return
    for more in (2, 4, 8, 16, 32, 64, 128):
        wide = _over(now, now.box.devices * more)
        what = f"sharded over {wide.box.devices} devices (FSDP)"
        setting = f"torchrun, {wide.box.devices} processes, compute.shard=fsdp"
        yield _remedy(what, setting, shape, wide, f"needs them; {SENT}")


def _over(training: Training, devices: int) -> Training:
    """The same training, one copy held by all of `devices`."""
    ways = training.box.tensor
    return replace(training, box=Box(shards=devices // ways, tensor=ways))


def _smaller_weights(shape: Shape, training: Training) -> Iterator[Remedy]:
    """Beside an adapter, weights are whole on every device: more devices do not help, fewer bits do."""
    for weights in ("int8", "nf4"):
        if training.frozen and training.frozen.weights == "auto":
            now = replace(training, frozen=replace(training.frozen, weights=weights))
            name = {"int8": "frozen weights in 8 bits", "nf4": "frozen weights in 4 bits (QLoRA)"}[weights]
            yield _remedy(name, f"weights={weights}", shape, now, "slower; weights are rounded")


def _fewer_rows(shape: Shape, training: Training, limit: float) -> Training:
    """Rows are halved until the training fits, down to one on each device."""
    now = training
    while now.batch.rows > now.rows_per_unit and training_memory(shape, now).total > limit:
        units = -(-now.batch.rows // (2 * now.rows_per_unit))
        now = with_rows(now, units * now.rows_per_unit)
    return now


def _total(shape: Shape, training: Training) -> float:
    return training_memory(shape, training).total


def _remedy(what: str, setting: str, shape: Shape, training: Training, effect: str) -> Remedy:
    return Remedy(what, setting, _total(shape, training), effect)


def tuning_ways(
    shape: Shape, batch: TuningBatch, machine: Machine | None
) -> list[tuple[Method, float, bool]]:
    """(method, bytes, fits) for every way to fine-tune, the most thorough first."""
    ways: list[tuple[Method, float, bool]] = []
    for method in METHODS:
        size = tuning_memory(shape, method, batch).total
        ways.append((method, size, machine is None or size <= machine.memory))
    return ways
