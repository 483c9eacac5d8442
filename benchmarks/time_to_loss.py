"""Time to a validation loss on a CPU: our defaults against a tuned plain loop.

One Llama shape, one text (novels, in a vocabulary learned from them), the same batches of tokens a step. The
plain loop (plain_loop.py: AdamW, compiled, bf16) is tuned for its horizon: from one setting to a better one
among its neighbours in learning rate, warm-up and schedule, until none is better. Its final loss on held-out
novels is the one to reach, seed by seed. Ours trains with the defaults of every recipe (Muon, WSD) to other
horizons, each a run with a schedule of its own, and the shortest that reaches the loss counts (bisection:
losses fall with the horizon).

Trainings give losses alone, which do not depend on how busy the machine is; each is kept, and a study that
was interrupted goes on. A step's time is measured apart, both sides in turns, on a quiet machine. What is
compared is steps x the time of a step, without compilation and validation; the row's bounds are over seeds.

    make bench NAME=time_to_loss                    # all that is missing, then the times
    python benchmarks/time_to_loss.py FILE losses   # the trainings alone, into FILE, at any niceness
    python benchmarks/time_to_loss.py FILE publish  # the times, with the losses that FILE holds
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

import novels
from modelwright.base.device import keep_freed_memory
from modelwright.base.run import Run
from modelwright.base.schema import Batch
from modelwright.model.config import ModelChoice
from modelwright.model.init import initialize
from modelwright.model.transformer import Transformer
from modelwright.objectives.next_token import NextToken
from modelwright.training.batches import Batches, Windows
from modelwright.training.compute import ComputeConfig, resolve
from modelwright.training.dial import settle
from modelwright.training.loop import LoopConfig, train
from modelwright.training.optimizer import OptimizerConfig
from modelwright.training.schedule import ScheduleConfig, make_schedule
from plain_loop import PlainLlama, PlainLoop
from record import Paced, Row, compare, interleave, kept, publish

VOCABULARY, ROWS, CONTEXT, STEPS = 4096, 16, 256, 400
SHAPE = ModelChoice(depth=4, architecture="llama").derive(VOCABULARY)
HELD_OUT_ROWS = 256
RATES = (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3)
WARM_UPS = (0.02, 0.1, 0.2, 0.4)
SCHEDULES = {"cosine": ScheduleConfig(kind="cosine", final=0.1), "wsd": ScheduleConfig(kind="wsd")}
DECAY = 0.1
HORIZONS = tuple(range(100, STEPS + 1, 25))
"""Steps of ours among which the shortest is searched."""
SEEDS = (0, 1, 2)
SIDES = "ours", "plain loop"
WARM_UP, ROUNDS = 4, 60
BAR = 2.0

say = Console(stderr=True).print


@dataclass(frozen=True, slots=True)
class Setting:
    """Of the plain loop; the search begins where it ended before."""

    rate: float = 4e-3
    warm_up: float = 0.4
    kind: str = "cosine"

    def __str__(self) -> str:
        return f"AdamW {self.rate:g}, {self.kind}, warm-up {self.warm_up:g}"

    @property
    def schedule(self) -> ScheduleConfig:
        return SCHEDULES[self.kind].model_copy(update={"warmup_fraction": self.warm_up})

    def neighbours(self) -> list[Setting]:
        """The next rates, and every other warm-up and schedule."""
        place = RATES.index(self.rate)
        rates = (*RATES[place + 1 : place + 2], *RATES[max(place - 1, 0) : place])
        return [
            *(replace(self, rate=rate) for rate in rates),
            *(replace(self, warm_up=part) for part in WARM_UPS if part != self.warm_up),
            *(replace(self, kind=kind) for kind in SCHEDULES if kind != self.kind),
        ]


class Study:
    """The text, and the trainings on it whose losses a file keeps."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seen, held_out = novels.encoded(file.with_suffix(".npz"), VOCABULARY)
        rows = novels.spread(held_out, HELD_OUT_ROWS, CONTEXT)
        self._held_out = [(part[:, :-1].contiguous(), part[:, 1:].contiguous()) for part in rows.split(ROWS)]

    def batches(self, seed: int) -> Batches:
        """What both sides read."""
        return Windows(self._seen, ROWS, CONTEXT, seed, end_of_text=-1)

    def plain(self, setting: Setting, seed: int) -> float:
        """Final held-out loss of the plain loop."""

        def measure() -> float:
            return train_plain(self.batches(seed), STEPS, setting, seed).loss(self._held_out)

        return self._kept(f"plain loop, {setting}, seed {seed}", measure)

    def ours(self, steps: int, seed: int) -> float:
        """Final held-out loss of ours."""

        def measure() -> float:
            return held_out_loss(train_ours(self.batches(seed), steps, seed), self._held_out)

        return self._kept(f"ours, {steps} steps, seed {seed}", measure)

    def _kept(self, key: str, measure: Callable[[], float]) -> float:
        loss = kept(self._file, key, measure)
        say(f"{key}: {loss:.4f}")
        return loss


def train_plain(batches: Batches, steps: int, setting: Setting, seed: int) -> PlainLoop:
    """The plain loop at its end."""
    torch.manual_seed(seed)
    model = PlainLlama.of(SHAPE, CONTEXT, written_out=True)  # the faster one to train on a CPU
    loop, factor = (
        PlainLoop(model, setting.rate, DECAY, compiled=True),
        make_schedule(setting.schedule, steps),
    )
    for step in range(steps):
        batch = batches[step]
        loop.step([(batch.ids, batch.targets)], factor(step))
    return loop


def train_ours(batches: Batches, steps: int, seed: int) -> Transformer:
    """The model at the end of our loop with its defaults."""
    optimizer = settle(OptimizerConfig(), SHAPE.hidden_size)
    config = LoopConfig(optimizer=optimizer, validate_every=10**6, checkpoint_every=10**6)
    device = resolve(ComputeConfig(dtype="bfloat16", compile="never"))
    model = Transformer(SHAPE, device.dtype)
    initialize(model, seed)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), "pretrain", "base", config, seed=seed)
        plan = config.plan(steps)
        train(model, NextToken(), batches, plan, config, run, validate=dict, matmul_dtype=device.dtype)
        run.close()
    return model


@torch.no_grad()
def held_out_loss(model: Transformer, held_out: list[tuple[Tensor, Tensor]]) -> float:
    """Mean loss in nats per token."""
    batches = [Batch(ids=ids, targets=targets) for ids, targets in held_out]
    total = sum(float(NextToken()(model.on_batch(batch), batch)[0]) for batch in batches)
    return total / sum(batch.targets.numel() for batch in batches)


def step_times(file: Path) -> dict[str, list[float]]:
    """Seconds of each side's steps, in turns."""
    return interleave({side: [sys.executable, __file__, str(file), side] for side in SIDES}, ROUNDS)


def paced(study: Study, side: str) -> None:
    """A worker of `step_times`: trains with turns."""
    batches, steps = Paced(study.batches(SEEDS[0]), WARM_UP), ROUNDS + WARM_UP + 2
    if side == "ours":
        train_ours(batches, steps, SEEDS[0])
    else:
        train_plain(batches, steps, Setting(), SEEDS[0])


def tuned(study: Study) -> tuple[Setting, dict[str, float]]:
    """The setting whose neighbours are all worse, and the losses of all that were tried."""
    tried: dict[Setting, float] = {}

    def loss(setting: Setting) -> float:
        if setting not in tried:
            tried[setting] = study.plain(setting, SEEDS[0])
        return tried[setting]

    best = Setting()
    while better := next((each for each in best.neighbours() if loss(each) < loss(best)), None):
        best = better
    return best, {str(setting): found for setting, found in tried.items()}


def shortest(study: Study, goal: float, seed: int) -> int:
    """The fewest steps of ours that reach the goal."""
    place = bisect_left(HORIZONS, True, key=lambda steps: study.ours(steps, seed) <= goal)
    if place == len(HORIZONS):
        raise SystemExit(f"ours did not reach {goal:.4f} in {STEPS} steps: the bar is missed by far")
    return HORIZONS[place]


def compared(seconds: dict[str, list[float]], steps: list[int], peer: str) -> list[Row]:
    """Runs to the goal, seed by seed; and steps, turn by turn."""
    shape = f"{SHAPE.hidden_size} x {SHAPE.num_hidden_layers} Llama, novels"
    ours, theirs = (statistics.median(seconds[side]) for side in SIDES)
    runs = [3600 / (count * ours) for count in steps]
    peer_runs = [3600 / (STEPS * theirs)] * len(steps)
    our_speeds, peer_speeds = ([60 / each for each in seconds[side]] for side in SIDES)
    return [
        compare(f"{shape}, to the held-out loss of {STEPS} steps", "runs/h", runs, peer_runs, peer, BAR),
        compare(f"{shape}, {ROWS} x {CONTEXT} tokens", "steps/min", our_speeds, peer_speeds, peer, None),
    ]


def main(file: Path, publishes: bool) -> None:
    """Tune the plain loop, then shorten ours; then the times."""
    study = Study(file)
    best, losses = tuned(study)
    goals, steps = list[float](), list[int]()
    for seed in SEEDS:
        goals.append(study.plain(best, seed))
        steps.append(shortest(study, goals[-1], seed))
    say(f"goals {goals}; steps {steps} of {STEPS}")
    if not publishes:
        return
    rows = compared(step_times(file), steps, f"plain loop, {best}")
    found = {
        "peer_losses": losses,
        "goals": goals,
        "our_steps": steps,
        "our_losses": [study.ours(*each) for each in zip(steps, SEEDS, strict=True)],
        "peer_steps": STEPS,
    }
    notes = f"bf16, {torch.get_num_threads()} threads; {__doc__}"
    publish("time_to_loss", rows, ("torch",), " ".join(notes.split()), found)


if __name__ == "__main__":
    keep_freed_memory()
    kept_in = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs") / "time_to_loss.jsonl"
    kept_in.parent.mkdir(parents=True, exist_ok=True)
    asked = sys.argv[2] if len(sys.argv) > 2 else "publish"
    if asked in SIDES:
        paced(Study(kept_in), asked)
    else:
        main(kept_in, publishes=asked == "publish")
