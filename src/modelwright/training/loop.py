"""The one training loop. Pre-training, fine-tuning and alignment all run through `train`.

It sees a module, an objective and a row of micro-batches; nothing here knows a model family, a
tokenizer or a task. Killed at any moment and started again, it ends with the same bits: the batch is
a function of the step, and a checkpoint holds all that the next step depends on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from modelwright.base.config import Config
from modelwright.base.errors import UserError
from modelwright.base.progress import format_shown
from modelwright.base.run import Run
from modelwright.base.seams import UNITS, Objective
from modelwright.training.averages import Averages, AveragesConfig
from modelwright.training.batches import Batches, FiniteBatches
from modelwright.training.checkpoint import Checkpoint, Checkpoints
from modelwright.training.diagnose import broken_weights, first_nonfinite
from modelwright.training.garbage import collected_every
from modelwright.training.guard import Action, Guard, GuardConfig, Verdict
from modelwright.training.keeping import Keeping, StopEarlyConfig
from modelwright.training.optimizer import Optimizer, OptimizerConfig
from modelwright.training.prefetch import Portion, portions
from modelwright.training.record import Pace, Record, RecordConfig
from modelwright.training.schedule import ScheduleConfig, make_schedule
from modelwright.training.spread import Share, Spread
from modelwright.training.step_plan import BatchRampConfig, StepPlan

SNAPSHOTS = "snapshots"
"""Folder of the averages that others are made of afterwards."""

Validate = Callable[[], dict[str, float]]
"""Measures the model on held-out data; by the first value training is stopped early, or its best weights kept
(lower is better). Called with gradients off and compilation off."""

Show = Callable[[int, bool], None]
"""Shows how the model answers after so many steps. True: they were the last, and the weights are those that
are handed on. Called as `Validate` is, after it, and before the first step; it must leave the model and the
random state as they were."""

T = TypeVar("T")


class LoopConfig(Config):
    """What every training stage can set."""

    optimizer: OptimizerConfig = OptimizerConfig()
    """Which rule, and how fast."""
    schedule: ScheduleConfig = ScheduleConfig()
    """Shape of the learning rate over the run."""
    accumulation: int = Field(default=1, gt=0)
    """Micro-batches per step. Changes memory and speed, not the gradient."""
    batch_ramp: BatchRampConfig | None = None
    """Smaller batches at first. None: all steps take the same."""
    guard: GuardConfig = GuardConfig()
    """What is done about spikes, and about values that are not finite."""
    validate_every: int = Field(default=100, gt=0)
    """Steps between measurements on held-out data; the end is always measured."""
    stop_early: StopEarlyConfig | None = None
    """End where held-out data is no longer predicted better. None: all steps are made."""
    keep: Literal["last", "best"] = "last"
    """Which weights are handed on: those of the last step, or those that measured best."""
    checkpoint_every: int = Field(default=100, gt=0)
    """Steps between checkpoints: what a kill can cost."""
    checkpoint_in_background: bool = False
    """Go on while a checkpoint is written: costs the memory of one more copy of the state."""
    keep_checkpoints: int = Field(default=3, gt=0)
    """How many stay on disk, for resuming and for averaging."""
    averages: AveragesConfig = AveragesConfig()
    """Which averages of the weights are kept during the run."""
    prefetch: int | None = Field(default=None, ge=0, exclude=True)
    """Steps whose batches a thread makes ahead; decides nothing of the result. None: 2 on a GPU, else 0."""
    collect_every: int = Field(default=50, ge=0, exclude=True)
    """Steps between Python's searches for objects that only refer to each other; decides nothing of the
    result. 0: whenever Python wants."""
    record: RecordConfig = RecordConfig()
    """What is recorded of the steps, and where else it is shown."""

    def plan(self, micro_batches: int) -> StepPlan:
        """The steps that a number of micro-batches comes to."""
        return StepPlan(micro_batches, self.accumulation, self.batch_ramp)


@dataclass(slots=True)
class Trained:
    """How a training run ended."""

    steps: int
    tokens: int
    metrics: dict[str, Any]
    averages: dict[str, dict[str, Tensor]] = field(repr=False)
    """Name -> average of the weights: this process's pieces."""


class _State:
    """All that the next step depends on: what a checkpoint holds."""

    def __init__(
        self, spread: Spread, optimizer: Optimizer, averages: Averages, guard: Guard, keeping: Keeping
    ) -> None:
        self.spread, self.optimizer, self.averages = spread, optimizer, averages
        self.guard, self.keeping = guard, keeping
        self.step = 0
        self.tokens = 0
        self.snapshots: Checkpoints | None = None

    def save(self, checkpoints: Checkpoints) -> None:
        parts = {
            "model": self.spread.parameters(),
            "optimizer": self.optimizer.state(),
            "averages": self.averages.state(),
        }
        small = {
            "tokens": self.tokens,
            "guard": self.guard.state(),
            "keeping": self.keeping.state(),
            "adapting": self.spread.training_state(),
        }
        checkpoints.save(self.step, parts, small)

    def save_snapshot(self) -> None:
        """Where one is due: the averages that others are made of afterwards."""
        if self.snapshots and self.averages.is_snapshot(self.step):
            self.snapshots.save(self.step, {"averages": self.averages.state(powers_only=True)}, {})

    def is_over(self, plan: StepPlan) -> bool:
        """Whether no step is left to make."""
        return self.step == plan.steps or bool(self.keeping.stopped)

    def load_weights(self, checkpoint: Checkpoint) -> None:
        """Weights, averages and the optimizer's moments, and not how far training has come."""
        layout = self.spread.layout
        self.spread.load(checkpoint.tensors("model", layout))
        self.optimizer.load_state(checkpoint.tensors("optimizer", layout))
        self.averages.load_state(checkpoint.tensors("averages", layout))
        self.spread.load_training_state(checkpoint.state().get("adapting", {}))

    def go_back(self, checkpoints: Checkpoints, run: Run, before: int) -> Checkpoint | None:
        """Take up the weights of the newest whole checkpoint of a step below `before`; it. One that was
        written after weights broke, and before it was seen, is passed over."""
        good = checkpoints.newest_whole(run.log, before)
        while good is not None:
            self.load_weights(good)
            broken = broken_weights(self.spread)
            if not broken:
                return good
            run.log(f"passing over the checkpoint of step {good.step}: {broken}")
            good = checkpoints.newest_whole(run.log, before=good.step)
        return None

    def resume(self, checkpoints: Checkpoints, run: Run, averages: AveragesConfig) -> None:
        """Take up the newest whole checkpoint, if there is one, and cut the metrics back to it."""
        if averages.snapshots:
            self.snapshots = self.spread.checkpoints(run.dir / SNAPSHOTS, sys.maxsize, False)
        self.spread.settle()  # the model may have been measured before
        checkpoint = checkpoints.newest_whole(run.log)
        if checkpoint is not None:
            self.load_weights(checkpoint)
            small = checkpoint.state()
            self.step, self.tokens = checkpoint.step, int(small["tokens"])
            self.guard.load_state(small["guard"])
            self.keeping.load_state(small["keeping"])
            run.log(f"resuming after step {self.step}")
        run.metrics.rewind(self.step)


def train(
    model: nn.Module | Spread,
    objective: Objective,
    batches: Batches,
    plan: StepPlan,
    config: LoopConfig,
    run: Run,
    *,
    validate: Validate,
    matmul_dtype: torch.dtype = torch.float32,
    pace: Pace | None = None,
    show: Show | None = None,
) -> Trained:
    """Run the steps of `plan` on `model`, in place. `model.on_batch(batch)` gives the objective's Output.

    A model that several processes hold together comes as a Spread (`parallel.spread_out`); each of them calls
    this with the same arguments, and they end with the same numbers.
    """
    spread = model if isinstance(model, Spread) else Spread(model)
    weights = spread.parameters()
    optimizer = Optimizer(weights.items(), config.optimizer, matmul_dtype, spread.layout)
    averages, guard = Averages(weights, config.averages, plan.steps), Guard(config.guard)
    keeping = Keeping(config.stop_early, config.keep, spread, run, plan.steps)
    checkpoints = spread.checkpoints(run.dir, config.keep_checkpoints, config.checkpoint_in_background)
    at = _State(spread, optimizer, averages, guard, keeping)
    at.resume(checkpoints, run, config.averages)
    schedule = make_schedule(config.schedule, plan.steps)
    measured = _look(spread, validate) if at.is_over(plan) else {}
    if show and at.step == 0:
        _look(spread, partial(show, 0, False))
    record = Record(spread, weights, config.record, pace)
    run.track(config.record.trackers, at.step)
    with (
        portions(spread, objective, batches, plan, at.step, config.prefetch) as ahead,
        collected_every(config.collect_every) as collect,
        run.watch(),
        run.progress(run.stage, plan.steps, at.step) as bar,
    ):
        while not at.is_over(plan):
            record.start()
            factor = schedule(at.step)
            portion = next(ahead)
            record.data_is_here()
            count, tokens = _size(spread, portion)
            shares = [share.to(spread.device) for share in portion.shares]
            sums = _accumulate(spread, objective, shares, count, optimizer, at.step)
            norms = record.gradients(at.step + 1)
            values, norms = _read(spread, sums, count, norms, optimizer.norm())
            verdict, dashboard = guard.judge(values), guard.dashboard(values)
            shown = verdict.event()
            if verdict.action is Action.APPLY:
                optimizer.clip(values["grad_norm"])
                optimizer.step(factor)
                averages.update(at.step + 1)
                norms |= record.updates()
            else:
                shown = _withhold(at, verdict, objective, shares, config, checkpoints, run)
            at.step += 1
            values |= spread.after_step(at.step / plan.steps)
            at.tokens += tokens
            timing = record.timing(tokens)
            due = at.step % config.validate_every == 0 or at.step == plan.steps
            if due:
                measured = _look(spread, validate)
                shown |= {**measured, **keeping.judge(at.step, measured)}
                if show and not at.is_over(plan):
                    _look(spread, partial(show, at.step, False))
            row = {"tokens": at.tokens, "learning_rate": factor * config.optimizer.rate}
            run.metric(at.step, **row, **record.flops(at.tokens), **values, **norms, **shown)
            at.save_snapshot()
            if (at.step % config.checkpoint_every == 0 and not guard.withheld) or at.is_over(plan):
                at.save(checkpoints)  # amid trouble none: it would push out the one to go back to
            run.timing(at.step, **timing)
            if due:
                run.log(f"step {at.step:,}: {format_shown({**dashboard, **measured})}")
            collect(at.step)
            bar.advance(1, **dashboard, tokens_per_s=timing["tokens_per_second"])
    checkpoints.close()
    kept = _hand_on(at, measured, show, run)
    return Trained(at.step, at.tokens, kept | guard.totals(), averages.all())


def _hand_on(at: _State, measured: Mapping[str, float], show: Show | None, run: Run) -> dict[str, Any]:
    """Put the weights in place that are handed on, whichever step they are of, and show how they answer; what
    was measured of them."""
    for name in at.averages.end(at.step):
        run.log(f"training ended before the average {name} was to begin: there is none")
    kept = at.keeping.finish(at.step, measured)
    if show:
        _look(at.spread, partial(show, at.step, True))
    return kept


@torch.no_grad()
def mean_loss(model: nn.Module | Spread, objective: Objective, batches: FiniteBatches) -> dict[str, float]:
    """The objective and its metrics over all of a finite row of micro-batches, per unit. Several processes
    share the batches, run equally often, and get the same figures. Raises UserError where there is none."""
    spread = model if isinstance(model, Spread) else Spread(model)
    count, sums = 0, dict[str, Tensor]()
    for first in range(0, len(batches), spread.readers):
        for share in spread.deal(batches, range(first, min(first + spread.readers, len(batches)))):
            placed = share.to(spread.device)
            loss, metrics = objective(spread.on_batch(placed.batch), placed.batch)
            count += objective.count(share.batch) if share.counts else 0
            for name, value in {"loss": loss, **metrics}.items():
                sums[name] = sums.get(name, loss.new_zeros((), dtype=torch.float64)) + placed.counted(value)
    totals = spread.totals({"count": count, **{name: float(value) for name, value in sums.items()}})
    if not totals["count"]:
        raise UserError(
            f"no loss can be measured: {len(batches)} held-out batches hold nothing that is learned, such as"
            " an assistant's tokens. Give more held-out rows, or a longer context"
        )
    return _means({name: totals[name] for name in sums}, totals["count"])


def _means(totals: Mapping[str, float], count: float) -> dict[str, float]:
    """Sums over `count` units as means, each over the units that it covers."""
    covered = {name: totals.get(name + UNITS, count) for name in totals if not name.endswith(UNITS)}
    return {name: totals[name] / units for name, units in covered.items() if units}


def _size(spread: Spread, portion: Portion) -> tuple[int, int]:
    """(units to learn from, tokens read) in a step, on all processes together. Hosts tell each other; no GPU
    is asked."""
    mine = {"units": portion.units, "tokens": portion.tokens}
    units, tokens = (int(total) for total in spread.totals(mine).values())
    if units == 0:
        raise UserError("a batch holds no supervised token: every label is masked, so nothing can be learned")
    return units, tokens


def _accumulate(
    spread: Spread,
    objective: Objective,
    shares: list[Share],
    count: int,
    optimizer: Optimizer,
    step: int,
) -> dict[str, Tensor]:
    """Gradients of the mean loss over all `count` units of step `step`; sums of the loss and the metrics over
    this process's units, in fp64."""
    spread.module.train()
    optimizer.zero_grad()
    spread.before_step(step)
    sums: dict[str, Tensor] = {}
    for number, share in enumerate(shares, 1):
        loss, metrics = objective(spread.on_batch(share.seen), share.batch)
        spread.before_backward(last=number == len(shares))
        (loss / count if share.counts else 0.0 * loss).backward()
        for name, value in {"loss": loss.detach(), **metrics}.items():
            counted = share.counted(value)
            sums[name] = sums[name] + counted if name in sums else counted
    spread.collect()
    return sums


def _read(
    spread: Spread, sums: Mapping[str, Tensor], count: int, norms: Mapping[str, Tensor], norm: Tensor
) -> tuple[dict[str, float], dict[str, float]]:
    """(means over the `count` units of a step, with the gradient's norm; norms by group). The one time in a
    step that the host waits for the device."""
    totals = spread.add_up(torch.stack(list(sums.values())))
    everything = torch.cat((totals, torch.stack([norm, *norms.values()]).double())).tolist()
    means = _means(dict(zip(sums, everything, strict=False)), count)
    means["grad_norm"] = everything[len(sums)]
    return means, dict(zip(norms, everything[len(sums) + 1 :], strict=True))


def _withhold(
    at: _State,
    verdict: Verdict,
    objective: Objective,
    shares: list[Share],
    config: LoopConfig,
    checkpoints: Checkpoints,
    run: Run,
) -> dict[str, float | str]:
    """An update is not applied: say it, say where a value that is not finite came from, and go back to the
    checkpoint before the trouble if the guard asks for it. What the metrics of the step say of it."""
    step = at.step + 1
    run.log(f"step {step}: {verdict.reason}; the update is withheld and its batch passed over")
    cause = ""
    if "not finite" in verdict.reason:
        cause, in_weights = first_nonfinite(at.spread, objective, shares)
        run.log(f"step {step}: {cause}")
        if in_weights and verdict.action is Action.SKIP:
            verdict = at.guard.back(verdict.reason)
    at.optimizer.zero_grad()
    if verdict.action is Action.SKIP:
        return verdict.event(cause)
    good = None
    if verdict.action is Action.ROLL_BACK:
        good = at.go_back(checkpoints, run, before=step - at.guard.withheld + 1)
    if verdict.action is Action.ROLL_BACK and good is None and "not finite" not in verdict.reason:
        at.guard.went_back()  # too early to be sure: text of another kind looks like this too
        run.log(f"step {step}: no checkpoint to go back to; what comes now is taken as usual")
        return verdict.event(cause)
    if good is None:
        raise UserError(
            f"training diverged at step {step}: {'; '.join(filter(None, (verdict.reason, cause)))}. The "
            "checkpoints before it are kept; lower the learning rate (now "
            f"{config.optimizer.rate:g}), or lengthen the warm-up, and run again"
        )
    if at.snapshots:
        at.snapshots.remove_after(good.step)
    at.guard.went_back(good.state()["guard"])
    run.log(f"step {step}: back to the weights after step {good.step}; training goes on with new text")
    return verdict.event(cause)


@torch.no_grad()
def _look(spread: Spread, at_it: Callable[[], T]) -> T:
    """What is found by looking at the model as it is now."""
    spread.module.train(False)
    with torch.compiler.set_stance("force_eager"):
        found = at_it()
    spread.settle()
    return found
