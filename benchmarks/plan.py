"""The planner against what happens: memory and time of five trainings on this machine.

Five settings of pretrain, finetune and align (widths, formats, optimizers, contexts, batches). Each is
forecast by formula alone and by a rehearsal of a few real steps, then run as a station in a process of its
own. Memory is the process's highest resident size as the kernel counts it, time what the manifest says. The
bars: memory within 10 %, time within 20 %. "ratio" is forecast over actual; a forecast that is 1 was right.
Time on a machine with other work says nothing: run it alone. Each case says of which machine it is, and of
which versions; what is finished is kept, and so is what the cases start from (runs/bench-plan).

    make bench NAME=plan                                  # everything: five minutes
    python benchmarks/plan.py align finetune ...          # cases that begin so; the others' results stay
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from modelwright.base.artifact import Artifact
from modelwright.base.run import code_revision, machine
from modelwright.life import planning
from modelwright.recipes.recipe import load_recipe
from modelwright.stages.forecast_process import PART
from record import Row, publish_cases

COMMON = {
    "data.atlas_size_bytes": 1_500_000,
    "tokenizer.vocab_size": 4096,
    "pretrain.tokens": 200_000,
    "pretrain.validation_tokens": 5000,
}
SHORT = {"pretrain.tokens": 20_000, "finetune.conversations": 300}
"""What the cases start from need not be good."""
BASE = Path("runs/bench-plan")
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "pretrain, 4 layers x 256, bf16, Muon, 16 x 256": (
        "pretrain",
        {"model.depth": 4, "pretrain.rows": 16, "pretrain.compute.dtype": "bfloat16"},
    ),
    "pretrain, 6 layers x 512, fp32, AdamW, 4 x 256": (
        "pretrain",
        {
            "model.depth": 6,
            "pretrain.rows": 4,
            "pretrain.compute.dtype": "float32",
            "pretrain.optimizer.kind": "adamw",
            "pretrain.tokens": 60_000,
        },
    ),
    "pretrain, 8 layers x 512, bf16, Muon, 2 x 1024": (
        "pretrain",
        {
            "model.depth": 8,
            "pretrain.rows": 2,
            "pretrain.context": 1024,
            "pretrain.compute.dtype": "bfloat16",
            "pretrain.tokens": 80_000,
        },
    ),
    "finetune, 4 layers x 256, bf16, Muon, 8 x 256": (
        "finetune",
        {"finetune.conversations": 2000, "finetune.compute.dtype": "bfloat16"},
    ),
    "align, 4 layers x 256, fp32, Muon, 24 pairs": (
        "align",
        {"align.pairs": 300, "align.compute.dtype": "float32"},
    ),
}


def main(chosen: Sequence[str]) -> None:
    """Forecast and run the cases whose names begin so; publish each with what the result file has of others
    and of other machines."""
    _run(BASE, ["run", "quickstart", "--until", "finetune"], COMMON | SHORT)  # passes over what is done
    keys = [key for key in CASES if key.startswith(tuple(chosen))]
    publish_cases("plan", keys, CASES, _case, ("torch",), " ".join((__doc__ or "").split()))


def _case(title: str, key: str) -> tuple[list[Row], dict[str, Any]]:
    station, changes = CASES[key]
    with tempfile.TemporaryDirectory() as folder:
        found = _measure(station, COMMON | changes, BASE, Path(folder) / "run")
    return _rows(title, found), found


def _measure(station: str, settings: dict[str, Any], base: Path, folder: Path) -> dict[str, Any]:
    overrides = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    recipe = load_recipe("quickstart", [*overrides, f"stages={json.dumps(_stages(station))}"])
    by_formula = planning.forecast(recipe)
    rehearsed = planning.forecast(recipe, probe=True)
    needed = {"pretrain": f"tokens={base / 'tokenize'}", "finetune": f"model={base / 'pretrain'}"}
    start = needed.get(station, f"model={base / 'finetune'}")
    peak = _run(folder, [station, "quickstart", "--input", start], settings)
    cost = Artifact.load(folder / station).manifest.cost
    pick = {
        kind: _station(made, station) for kind, made in (("formula", by_formula), ("rehearsal", rehearsed))
    }
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "revision": code_revision(),
        "hardware": machine(),
        "versions": {"torch": version("torch")},
        "seconds": cost.seconds,
        "peak_memory": peak,
        **{f"{kind}_seconds": each.seconds for kind, each in pick.items()},
        # the station runs in a process of its own, which holds nothing of other stations
        **{f"{kind}_memory": each.peak_memory - each.memory[PART] for kind, each in pick.items()},
    }


def _stages(station: str) -> list[str]:
    """A life that makes what the station starts from, so that the forecast knows its shape."""
    order = ["prepare", "tokenize", "pretrain", "finetune", "align"]
    return order[: order.index(station) + 1]


def _station(forecast: Any, station: str) -> Any:
    return next(each for each in forecast.stations if each.station == station)


def _run(folder: Path, arguments: list[str], settings: dict[str, Any]) -> float:
    """Run a command in a process of its own; the highest resident memory of it, in bytes."""
    overrides = [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    code = (
        "import sys; from modelwright.cli import main; code = main(sys.argv[1:]);"
        "status = open('/proc/self/status').read();"
        "print(status.split('VmHWM:')[1].split()[0]); sys.exit(code)"
    )
    command = [sys.executable, "-c", code, *arguments, "--out", str(folder), "-q", *overrides]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{arguments[0]} failed: {done.stderr[-500:]}")
    return float(done.stdout.split()[-1]) * 1024


def _rows(name: str, case: dict[str, Any]) -> list[Row]:
    """Each forecast beside what happened; the unit that is small enough to read."""
    rows = []
    for kind in ("formula", "rehearsal"):
        for what, unit, scale in (("memory", "MiB", 2**20), ("seconds", "s", 1)):
            actual = case["peak_memory" if what == "memory" else "seconds"] / scale
            forecast = case[f"{kind}_{what}"] / scale
            ratio = forecast / actual
            label = f"{name}: {what}, {kind}"
            rows.append(Row(label, unit, forecast, actual, "what happened", ratio, ratio, ratio, 1, None))
    return rows


if __name__ == "__main__":
    if os.getloadavg()[0] > 0.6 * (os.cpu_count() or 1):
        sys.stderr.write("others are at work on this machine: the times of this run say nothing\n")
    main(sys.argv[1:] or [""])
