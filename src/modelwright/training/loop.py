"""The one training loop. Pre-training, fine-tuning and alignment all run through `train`.

It sees a module, an objective and a row of micro-batches; nothing here knows a model family, a
tokenizer or a task. Killed at any moment and started again, it ends with the same bits: the batch is
a function of the step, and a checkpoint holds all that the next step depends on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from modelwright.base.config import Config
from modelwright.base.errors import UserError
from modelwright.base.run import Run
from modelwright.base.schema import Batch
from modelwright.base.seams import Objective, Output
from modelwright.training.batches import Batches, FiniteBatches
from modelwright.training.checkpoint import Checkpoints
from modelwright.training.ema import WeightAverage
from modelwright.training.optimizer import Optimizer, OptimizerConfig
from modelwright.training.schedule import ScheduleConfig, make_schedule

Validate = Callable[[], dict[str, float]]
"""Measures the model on held-out data. Called with gradients off and compilation off."""


class Trainable(Protocol):
    """What the loop asks of a model, beyond what every nn.Module has."""

    def on_batch(self, batch: Batch) -> Output:
        """Run on a micro-batch."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...

    def train(self, mode: bool = True) -> Any: ...

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> Any: ...


class LoopConfig(Config):
    """What every training stage can set."""

    optimizer: OptimizerConfig = OptimizerConfig()
    """Which rule, and how fast."""
    schedule: ScheduleConfig = ScheduleConfig()
    """Shape of the learning rate over the run."""
    accumulation: int = Field(default=1, gt=0)
    """Micro-batches per step. Changes memory and speed, not the gradient."""
    validate_every: int = Field(default=100, gt=0)
    """Steps between measurements on held-out data; the end is always measured."""
    checkpoint_every: int = Field(default=100, gt=0)
    """Steps between checkpoints: what a kill can cost."""
    keep_checkpoints: int = Field(default=3, gt=0)
    """How many stay on disk, for resuming and for averaging."""
    ema_half_life: float = Field(default=0.03, gt=0, le=1)
    """Half-life of the averaged weights as a fraction of the run."""


@dataclass(slots=True)
class Trained:
    """How a training run ended."""

    tokens: int
    metrics: dict[str, float]
    ema: dict[str, Tensor] = field(repr=False)


@dataclass(slots=True)
class _Progress:
    """What a checkpoint must hold besides tensors."""

    step: int = 0
    tokens: int = 0


def train(
    model: Trainable,
    objective: Objective,
    batches: Batches,
    steps: int,
    config: LoopConfig,
    run: Run,
    *,
    validate: Validate,
    matmul_dtype: torch.dtype = torch.float32,
) -> Trained:
    """Run `steps` updates on `model`, in place. `model.on_batch(batch)` gives the objective's Output."""
    optimizer = Optimizer(model.named_parameters(), config.optimizer, matmul_dtype)
    ema = WeightAverage(model.named_parameters(), max(1.0, config.ema_half_life * steps))
    checkpoints = Checkpoints(run.dir / "checkpoints", config.keep_checkpoints)
    at = _resume(model, optimizer, ema, checkpoints, run)
    schedule = make_schedule(config.schedule, steps)
    device = next(model.parameters()).device
    measured: dict[str, float] = {}
    if at.step == steps:
        measured = _measure(model, validate)
    with run.progress(run.stage, steps, at.step) as bar:
        while at.step < steps:
            start = time.perf_counter()
            factor = schedule(at.step)
            micro = [batch.to(device) for batch in micro_batches(batches, at.step, config.accumulation)]
            values = _accumulate(model, objective, micro, optimizer)
            values["grad_norm"] = optimizer.step(factor)
            _refuse_nonfinite(values, at.step, config)
            ema.update()
            at.step += 1
            tokens = sum(batch.ids.numel() for batch in micro)
            at.tokens += tokens
            speed = tokens / (time.perf_counter() - start)
            if at.step % config.validate_every == 0 or at.step == steps:
                measured = _measure(model, validate)
            shown = measured if at.step % config.validate_every == 0 or at.step == steps else {}
            rate = factor * config.optimizer.learning_rate
            run.metric(at.step, tokens=at.tokens, learning_rate=rate, **values, **shown)
            if at.step % config.checkpoint_every == 0 or at.step == steps:
                _save(model, optimizer, ema, checkpoints, at)
            run.timing(at.step, tokens_per_second=speed)
            bar.advance(1, loss=values["loss"], tokens_per_s=speed)
    return Trained(at.tokens, measured, ema.average())


def micro_batches(batches: Batches, step: int, accumulation: int) -> list[Batch]:
    """The micro-batches of a step; a finite row may end within its last step."""
    first, last = step * accumulation, (step + 1) * accumulation
    if isinstance(batches, Sized):
        last = min(last, len(batches))
    return [batches[index] for index in range(first, last)]


@torch.no_grad()
def mean_loss(model: Trainable, objective: Objective, batches: FiniteBatches) -> dict[str, float]:
    """The objective and its metrics over all of a finite row of micro-batches, per unit."""
    device = next(model.parameters()).device
    count, sums = 0, dict[str, float]()
    for index in range(len(batches)):
        batch = batches[index].to(device)
        loss, metrics = objective(model.on_batch(batch), batch)
        count += objective.count(batch)
        for name, value in {"loss": loss, **metrics}.items():
            sums[name] = sums.get(name, 0.0) + float(value)
    return {name: value / count for name, value in sums.items()}


def _accumulate(
    model: Trainable,
    objective: Objective,
    micro: list[Batch],
    optimizer: Optimizer,
) -> dict[str, float]:
    """Gradients of the mean loss over all units of all micro-batches, and the mean metrics."""
    model.train()
    optimizer.zero_grad()
    count = sum(objective.count(batch) for batch in micro)
    if count == 0:
        raise UserError("a batch holds no supervised token: every label is masked, so nothing can be learned")
    sums: dict[str, float] = {}
    for batch in micro:
        loss, metrics = objective(model.on_batch(batch), batch)
        (loss / count).backward()
        for name, value in {"loss": loss.detach(), **metrics}.items():
            sums[name] = sums.get(name, 0.0) + float(value)
    return {name: value / count for name, value in sums.items()}


def _refuse_nonfinite(values: Mapping[str, float], step: int, config: LoopConfig) -> None:
    if not all(math.isfinite(value) for value in values.values()):
        rate = config.optimizer.learning_rate
        raise UserError(
            f"training diverged at step {step}: {dict(values)}. The checkpoints before it are kept; "
            f"lower the learning rate (now {rate:g}), or lengthen the warm-up, and run again"
        )


@torch.no_grad()
def _measure(model: Trainable, validate: Validate) -> dict[str, float]:
    model.train(False)
    with torch.compiler.set_stance("force_eager"):
        return validate()


def _save(
    model: Trainable, optimizer: Optimizer, ema: WeightAverage, checkpoints: Checkpoints, at: _Progress
) -> None:
    weights = dict(model.named_parameters())
    parts = {"model": weights, "optimizer": optimizer.state(), "ema": ema.state()}
    checkpoints.save(at.step, parts, {"tokens": at.tokens, "ema_decay": ema.decay})


def _resume(
    model: Trainable, optimizer: Optimizer, ema: WeightAverage, checkpoints: Checkpoints, run: Run
) -> _Progress:
    """Take up the newest whole checkpoint, if there is one, and cut the metrics back to it."""
    checkpoint = checkpoints.newest_whole(run.log)
    if checkpoint is None:
        run.metrics.rewind(0)
        return _Progress()
    model.load_state_dict(checkpoint.tensors("model"), strict=True)
    optimizer.load_state(checkpoint.tensors("optimizer"))
    ema.load_state(checkpoint.tensors("ema"))
    run.metrics.rewind(checkpoint.step)
    run.log(f"resuming after step {checkpoint.step}")
    return _Progress(checkpoint.step, int(checkpoint.state()["tokens"]))
