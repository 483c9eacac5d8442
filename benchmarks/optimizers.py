"""Which variant of the optimizer, and which rates: measured at two sizes, seed by seed.

Every trial trains a Llama shape on novels from random weights and ends with a loss on held-out novels. Trials
of a seed share first weights and the order of the text, so a variant is compared with the default pair by
pair. A difference counts at a size when its 95 % interval over seeds (Student's t on pairs) leaves zero out;
what is to become a default has to count at both sizes. Losses after a fixed number of steps do not depend on
how busy the machine is. What was measured is kept line by line, and a study that was interrupted goes on.

    make bench NAME=optimizers                       # all that is missing, then the table
    python benchmarks/optimizers.py FILE rates       # one group of trials into FILE, as far as it got
    python benchmarks/optimizers.py FILE publish     # what FILE holds so far
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import novels
from modelwright.base.device import keep_freed_memory
from modelwright.base.schema import Batch
from modelwright.model.config import ModelChoice
from modelwright.model.init import initialize
from modelwright.model.transformer import Transformer
from modelwright.objectives.next_token import NextToken
from modelwright.training.batches import Windows
from modelwright.training.dial import settle
from modelwright.training.optimizer import Optimizer, OptimizerConfig
from modelwright.training.schedule import ScheduleConfig, make_schedule
from novels import Tokens
from record import kept, known, publish

VOCABULARY, CONTEXT, ROWS, DEPTH = 1024, 128, 8, 4
SIZES = {"small": (128, 300), "second": (256, 400)}
"""Name -> width and steps: 0.9M and 3.4M parameters."""
SEEDS = (0, 1, 2, 3, 4)
HELD_OUT_ROWS = 256
LOW = {"learning_rate": 3e-3, "matrix_learning_rate": 0.02}
"""What the rates were before the sweep."""
RATES = ((1, 1), (1, 4), (1, 8), (2, 4), (0.5, 4), (1, 2), (2, 1), (0.5, 1))
"""Factors on the two rates of LOW: matrices, and all others."""
T_QUANTILE = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}
"""97.5 % quantiles of Student's t by degrees of freedom."""

DERIVED = {"even_neurons": True, "weight_decay": 0.1, "momentum": 0.9}
"""The variant of Muon that training/dial.py derives: around it the rates are swept."""

VARIANTS: dict[str, dict[str, Any]] = {
    "Muon as it was": {},
    "polar express, 5 steps": {"iteration": "polar"},
    "polar express, 4 steps": {"iteration": "polar", "iterations": 4},
    "polar express, 3 steps": {"iteration": "polar", "iterations": 3},
    "jordan, 3 steps": {"iterations": 3},
    "even neurons (NorMuon)": {"even_neurons": True},
    "decay 0.1": {"weight_decay": 0.1},
    "NorMuon, decay 0.1": {"even_neurons": True, "weight_decay": 0.1},
    "NorMuon, decay 0.1, momentum 0.9": DERIVED,
    "NorMuon, decay 0.1, momentum 0.85": DERIVED | {"momentum": 0.85},
    "NorMuon, cautious decay 0.1": {"even_neurons": True, "weight_decay": 0.1, "cautious": True},
    "cautious decay 0.1": {"weight_decay": 0.1, "cautious": True},
    "cautious decay 0.1, falling": {"weight_decay": 0.1, "cautious": True, "decay_falls": True},
    "rms scale": {"scale": "rms"},
    "momentum 0.9": {"momentum": 0.9},
    "AdamW, 0.003": {"kind": "adamw", "weight_decay": 0.1, "learning_rate": 3e-3},
    "AdamW, 0.006": {"kind": "adamw", "weight_decay": 0.1, "learning_rate": 6e-3},
    "AdamW, 0.012": {"kind": "adamw", "weight_decay": 0.1, "learning_rate": 0.012},
}
SCHEDULES: dict[str, dict[str, Any]] = {
    "wsd, 1 - sqrt": {"shape": "sqrt"},
    "wsd, decay over 0.2": {"decay_fraction": 0.2},
    "wsd, decay over 0.7": {"decay_fraction": 0.7},
    "linear": {"kind": "linear"},
    "cosine": {"kind": "cosine"},
}

say = Console(stderr=True).print


@dataclass(frozen=True)
class Trial:
    """One training."""

    group: str
    name: str
    width: int
    depth: int
    steps: int
    rows: int
    seed: int
    optimizer: dict[str, Any] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return json.dumps(
            {k: v for k, v in asdict(self).items() if k not in ("group", "name")}, sort_keys=True
        )


def measure(trial: Trial, seen: Tokens, held_out: Tokens) -> float:
    """Held-out loss at the end, in nats per token."""
    shape = ModelChoice(
        depth=trial.depth, architecture="llama", hidden_size=trial.width, head_dim=min(64, trial.width // 2)
    ).derive(VOCABULARY)
    model = Transformer(shape, torch.bfloat16)
    initialize(model, trial.seed)
    objective = NextToken()
    settings = OptimizerConfig.model_validate(trial.optimizer)
    optimizer = Optimizer(model.named_parameters(), settings, torch.bfloat16)
    factor = make_schedule(ScheduleConfig.model_validate(trial.schedule), trial.steps)
    batches = Windows(seen, trial.rows, CONTEXT, trial.seed, end_of_text=-1)
    for step in range(trial.steps):
        optimizer.zero_grad()
        loss, _ = objective(model.on_batch(batches[step]), batches[step])
        (loss / batches[step].targets.numel()).backward()
        optimizer.clip(float(optimizer.norm()))
        optimizer.step(factor(step))
    total = 0.0
    with torch.no_grad():
        for part in novels.spread(held_out, HELD_OUT_ROWS, CONTEXT).split(32):
            batch = Batch(ids=part[:, :-1].contiguous(), targets=part[:, 1:].contiguous())
            total += float(objective(model.on_batch(batch), batch)[0])
    return total / (HELD_OUT_ROWS * CONTEXT)


def derived(width: int, changes: dict[str, Any]) -> dict[str, Any]:
    """The settings of a variant, with the rates that the dial derives where it says none."""
    rates = settle(OptimizerConfig.model_validate(changes), width)
    return changes | {"learning_rate": rates.rate, "matrix_learning_rate": rates.matrix_rate}


def trials(group: str) -> Iterator[Trial]:
    """The trials of a group, the most telling first."""
    if group in SIZES:
        width, steps = SIZES[group]
        for seed, (name, changes) in itertools.product(SEEDS, VARIANTS.items()):
            yield Trial(group, name, width, DEPTH, steps, ROWS, seed, derived(width, changes))
    elif group == "low rate":
        width, steps = SIZES["small"]
        for name, changes in VARIANTS.items():
            if "scale" not in changes:  # needs another rate for the matrices
                yield Trial(group, name, width, DEPTH, steps, ROWS, 0, LOW | changes)
    elif group.startswith("schedules-"):
        width, steps = SIZES[group.removeprefix("schedules-")]
        for seed, (name, changes) in itertools.product(SEEDS, SCHEDULES.items()):
            yield Trial(group, name, width, DEPTH, steps, ROWS, seed, derived(width, {}), changes)
    elif group == "rates":
        for (matrix, others), width in itertools.product(RATES, (128, 256, 64)):
            rates = {"matrix_learning_rate": 0.02 * matrix, "learning_rate": 3e-3 * others}
            yield Trial(group, f"{matrix:g} x, {others:g} x", width, DEPTH, 300, ROWS, 0, DERIVED | rates)
    elif group == "batch":
        for rows, factor in itertools.product((32, 4), (1, 2, 0.5)):
            rates = {"matrix_learning_rate": 0.02 * factor, "learning_rate": 0.012 * factor}
            steps = 300 * ROWS // rows
            yield Trial(group, f"{factor:g} x", 128, DEPTH, steps, rows, 0, DERIVED | rates)
    elif group == "momentum":  # in a longer run
        for seed, momentum in itertools.product((0, 1), (0.95, 0.9, 0.85)):
            changes = derived(128, DERIVED | {"momentum": momentum})
            yield Trial(group, f"momentum {momentum:g}", 128, DEPTH, 1200, ROWS, seed, changes)
    elif group == "depths":
        for depth, factor in itertools.product((2, 6, 3), (1, 2, 0.5)):
            rates = {"matrix_learning_rate": 0.02 * factor, "learning_rate": 0.012 * factor}
            yield Trial(group, f"{factor:g} x", 128, depth, 300, ROWS, 0, DERIVED | rates)
    else:
        raise SystemExit(f"no group '{group}': there are {', '.join(GROUPS)}")


SWEEPS = ("rates", "batch", "depths", "momentum")
GROUPS = ("low rate", "small", "second", "schedules-small", "schedules-second", *SWEEPS)


def collect(file: Path, groups: tuple[str, ...]) -> None:
    """Measure what is missing, one trial after the other."""
    keep_freed_memory()
    seen, held_out = novels.encoded(file.with_suffix(".npz"), VOCABULARY)
    for trial in itertools.chain.from_iterable(map(trials, groups)):
        loss = kept(file, trial.key, lambda trial=trial: measure(trial, seen, held_out))
        say(
            f"{trial.group} {trial.name} {trial.width} x {trial.depth}, {trial.rows} rows, "
            f"seed {trial.seed}: {loss:.4f}"
        )


def interval(differences: list[float]) -> tuple[float, float, float]:
    """Mean and bounds of the paired difference."""
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return mean, -math.inf, math.inf
    half = T_QUANTILE[len(differences) - 1] * statistics.stdev(differences) / math.sqrt(len(differences))
    return mean, mean - half, mean + half


def compared(file: Path) -> list[dict[str, Any]]:
    """Each variant against the default at its size: mean loss, and the paired difference."""
    losses, rows = known(file), []
    for size in (*SIZES, "low rate"):
        everything = [*trials(size), *(trials(f"schedules-{size}") if size in SIZES else ())]
        base = {
            t.seed: losses[t.key] for t in everything if t.name == next(iter(VARIANTS)) and t.key in losses
        }
        for name in dict.fromkeys(t.name for t in everything):
            own = {t.seed: losses[t.key] for t in everything if t.name == name and t.key in losses}
            pairs = [own[seed] - base[seed] for seed in own if seed in base]
            if pairs:
                mean, low, high = interval(pairs)
                rows.append({"size": size, "variant": name, "loss": statistics.fmean(own.values()),
                             "difference": mean, "low": low, "high": high, "seeds": len(pairs)})  # fmt: skip
    return rows


def swept(file: Path) -> list[dict[str, Any]]:
    """Losses of the sweeps that the dial's rules stand on."""
    losses = known(file)
    return [
        {
            "group": t.group,
            "rates": t.name,
            "width": t.width,
            "depth": t.depth,
            "rows": t.rows,
            "steps": t.steps,
            "seed": t.seed,
            "loss": losses[t.key],
        }
        for group in SWEEPS
        for t in trials(group)
        if t.key in losses
    ]


def main(file: Path) -> None:
    """Print and publish what there is."""
    rows = compared(file)
    table = Table("size", "variant", "loss", "difference", "95 % interval", "seeds", title="optimizers")
    for row in rows:
        bounds = f"{row['low']:+.4f} to {row['high']:+.4f}"
        table.add_row(row["size"], row["variant"], f"{row['loss']:.4f}", f"{row['difference']:+.4f}", bounds,
                      str(row["seeds"]))  # fmt: skip
    Console().print(table)
    notes = " ".join((__doc__ or "").split())
    safe = [
        {k: v if not isinstance(v, float) or math.isfinite(v) else None for k, v in row.items()}
        for row in rows
    ]
    publish("optimizers", [], ("torch", "numpy"), notes, {"variants": safe, "sweeps": swept(file)})


if __name__ == "__main__":
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs") / "optimizers.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    chosen = tuple(sys.argv[2:]) or GROUPS
    if chosen != ("publish",):
        collect(file, chosen)
    if chosen == ("publish",) or len(sys.argv) < 3:
        main(file)
