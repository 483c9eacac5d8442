"""Time to a validation loss on a CPU: our defaults against a tuned plain loop.

One Llama shape, one text (novels, in a vocabulary learned from them), the same batches of tokens a step. The
plain loop (plain_loop.py: AdamW, compiled, bf16) is tuned for its horizon: every learning rate and both
schedules of a grid, and the best final loss on held-out novels is the one to reach. Ours trains with the
defaults of every recipe (Muon, WSD) to shorter and shorter horizons, each a run with a schedule of its own,
and the shortest that reaches the loss counts. What is compared is the time of the training steps, without
compilation and validation, of runs that follow one another, seed by seed.

    make bench NAME=time_to_loss
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
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
from modelwright.tokenizer.learn import learn
from modelwright.training.batches import Windows
from modelwright.training.compute import ComputeConfig, resolve
from modelwright.training.dial import settle
from modelwright.training.loop import LoopConfig, train
from modelwright.training.optimizer import OptimizerConfig
from modelwright.training.schedule import ScheduleConfig, make_schedule
from novels import Tokens
from plain_loop import PlainLlama, PlainLoop
from record import compare, publish

VOCABULARY, ROWS, CONTEXT, STEPS = 4096, 16, 256, 400
SHAPE = ModelChoice(depth=4, architecture="llama").derive(VOCABULARY)
HELD_OUT_WINDOWS = 256
RATES = (1e-3, 2e-3, 4e-3, 8e-3)
SCHEDULES = (ScheduleConfig(kind="cosine", final=0.1), ScheduleConfig(kind="wsd"))
DECAY = 0.1
HORIZONS = (0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 1.0)
SEEDS = (0, 1, 2)
BAR = 2.0

say = Console(stderr=True).print


def tokens() -> tuple[Tokens, list[tuple[Tensor, Tensor]]]:
    """The novels to train on, and windows of the others: every tenth is held out."""
    texts = novels.texts()
    held_out, training = texts[::10], [text for number, text in enumerate(texts) if number % 10]
    tokenizer = learn(training, VOCABULARY)
    ends = tokenizer.end_of_text_id
    ids = [np.array([*tokenizer.encode(text), ends], dtype=np.int64) for text in training]
    seen = np.concatenate([np.array(tokenizer.encode(text), dtype=np.int64) for text in held_out])
    starts = np.linspace(0, len(seen) - CONTEXT - 2, HELD_OUT_WINDOWS).astype(int)
    rows = torch.from_numpy(np.stack([seen[start : start + CONTEXT + 1] for start in starts]))
    windows = [
        (rows[first : first + ROWS, :-1].contiguous(), rows[first : first + ROWS, 1:].contiguous())
        for first in range(0, HELD_OUT_WINDOWS, ROWS)
    ]
    return Tokens(np.concatenate(ids)), windows


def run_plain(
    text: Tokens, held_out: list[tuple[Tensor, Tensor]], rate: float, schedule: ScheduleConfig, seed: int
) -> tuple[float, float]:
    """(final held-out loss, seconds of training) of the plain loop."""
    torch.manual_seed(seed)
    model = PlainLlama.of(SHAPE, CONTEXT, written_out=True)  # the faster one to train on a CPU
    loop, factor = PlainLoop(model, rate, DECAY, compiled=True), make_schedule(schedule, STEPS)
    batches = Windows(text, ROWS, CONTEXT, seed, end_of_text=-1)
    loop.step([(batches[0].ids, batches[0].targets)], factor=0.0)  # compiles, moves no weight
    loop.optimizer.state.clear()
    start = time.perf_counter()
    for step in range(STEPS):
        batch = batches[step]
        loop.step([(batch.ids, batch.targets)], factor(step))
    return loop.loss(held_out), time.perf_counter() - start


def run_ours(
    text: Tokens, held_out: list[tuple[Tensor, Tensor]], steps: int, seed: int
) -> tuple[float, float]:
    """(final held-out loss, seconds of training) of our loop with its defaults."""
    optimizer = settle(OptimizerConfig(), SHAPE.hidden_size)
    config = LoopConfig(optimizer=optimizer, validate_every=10**6, checkpoint_every=10**6)
    device = resolve(ComputeConfig(dtype="bfloat16", compile="never"))
    model = Transformer(SHAPE, device.dtype)
    initialize(model, seed)
    batches = Windows(text, ROWS, CONTEXT, seed, end_of_text=-1)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), "pretrain", "base", config, seed=seed)
        start = time.perf_counter()
        plan = config.plan(steps)
        train(model, NextToken(), batches, plan, config, run, validate=dict, matmul_dtype=device.dtype)
        seconds = time.perf_counter() - start
        run.close()
    with torch.no_grad():
        losses = [
            NextToken()(model.on_batch(batch), batch)[0] / batch.targets.numel()
            for batch in (Batch(ids=ids, targets=targets) for ids, targets in held_out)
        ]
    return float(torch.stack(losses).mean()), seconds


def main() -> None:
    """Tune the plain loop, then shorten ours."""
    keep_freed_memory()
    text, held_out = tokens()
    grid = {}
    for schedule in SCHEDULES:
        for rate in RATES:
            grid[schedule.kind, rate] = run_plain(text, held_out, rate, schedule, SEEDS[0])[0]
            say(f"plain loop, {schedule.kind}, rate {rate:g}: {grid[schedule.kind, rate]:.4f}")
    kind, rate = min(grid, key=grid.__getitem__)
    best = next(schedule for schedule in SCHEDULES if schedule.kind == kind)
    ours, theirs, steps, goals = [], [], [], []
    for seed in SEEDS:
        goal, peer_seconds = run_plain(text, held_out, rate, best, seed)
        for horizon in HORIZONS:
            loss, seconds = run_ours(text, held_out, round(horizon * STEPS), seed)
            say(f"seed {seed}: goal {goal:.4f} in {peer_seconds:.0f} s; ours {loss:.4f} in {seconds:.0f} s")
            if loss <= goal:
                break
        else:
            raise SystemExit(f"ours did not reach {goal:.4f} in {STEPS} steps: the bar is missed by far")
        ours.append(1 / seconds)
        theirs.append(1 / peer_seconds)
        steps.append(round(horizon * STEPS))
        goals.append(goal)
    name = f"{SHAPE.hidden_size} x {SHAPE.num_hidden_layers} Llama, novels, held-out loss of {STEPS} steps"
    row = compare(name, "1/s", ours, theirs, f"plain loop, AdamW {rate:g}, {kind}", BAR)
    notes = f"bf16, {torch.get_num_threads()} threads; {__doc__}"
    found = {
        "peer_losses": {f"{k} {r:g}": loss for (k, r), loss in grid.items()},
        "goals": goals,
        "our_steps": steps,
        "peer_steps": STEPS,
    }
    publish("time_to_loss", [row], ("torch",), " ".join(notes.split()), found)


if __name__ == "__main__":
    main()
