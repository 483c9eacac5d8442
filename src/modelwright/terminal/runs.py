"""`modelwright ls`: the runs in a folder, read from their manifests alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from modelwright.base.artifact import MANIFEST, STARTED, Artifact
from modelwright.base.errors import UserError
from modelwright.base.metrics import in_words, size
from modelwright.recipes.recipe import RECIPE_FILE, load_recipe
from modelwright.recipes.stations import VERBS, WHOLE_LIFE
from modelwright.terminal.printable import printable

WEIGHTS = "model/model.safetensors"
HEADLINES = (
    ("align", "validation_accuracy"),
    ("finetune", "validation_loss"),
    ("pretrain", "validation_bits_per_byte"),
)
"""The figure that speaks for a run: the one of the latest of these stations, the first here."""
SHOWN = 12
"""Runs that an error names at most."""


def is_unfinished(folder: Path) -> bool:
    """Whether a stage has begun in a folder and not ended."""
    return (folder / STARTED).is_file() and not (folder / MANIFEST).is_file()


def finished(run: Path) -> list[Artifact]:
    """The finished stations of a run directory, in the order of a life."""
    return [Artifact.load(run / verb) for verb in VERBS if (run / verb / MANIFEST).is_file()]


def named(path: Path) -> list[Artifact]:
    """What a path means: a stage folder's own artifact, or all that are finished in a run directory."""
    if is_run(path):
        made = finished(path)
        if not made:
            raise UserError(f"nothing is finished in {path} yet: there is nothing to see")
        return made
    if (path / MANIFEST).is_file():
        return [Artifact.load(path)]
    if is_unfinished(path):
        raise UserError(
            f"{path} is a stage that has begun and not ended. How far it came, and how to resume it, says"
            f" `modelwright show {path}`."
        )
    raise UserError(f"{path} {_what_it_is(path)}")


def _what_it_is(path: Path) -> str:
    """What a path that is neither a run nor an artifact is instead, and what to do."""
    if path.is_dir():
        runs = [str(run) for run in find_runs(path)]
        if runs:
            return f"is no run, but holds runs: {', '.join(runs[:SHOWN])}. Name one of them."
        what = f"has no {MANIFEST}: it is no run, and no stage that is finished"
    else:
        what = "is a file, and runs are folders" if path.exists() else "does not exist"
    return (
        f"{what}. Expected a run directory, e.g. runs/quickstart, or the folder of one of its stages."
        " `modelwright ls` lists the runs."
    )


def find_runs(folder: Path) -> Iterator[Path]:
    """Run directories directly below `folder`, or `folder` itself if it is one."""
    if is_run(folder):
        yield folder
        return
    yield from (path for path in sorted(folder.iterdir()) if path.is_dir() and is_run(path))


def is_run(folder: Path) -> bool:
    """Whether a folder holds stations of a life."""
    return any((folder / verb).is_dir() for verb in VERBS)


def summarize(run: Path) -> dict[str, Any]:
    """What `ls` says about one run; a manifest that cannot be read is said, and hides no other run."""
    made, damaged = list[Artifact](), list[str]()
    for verb in VERBS:
        try:
            made += [Artifact.load(run / verb)] if (run / verb / MANIFEST).is_file() else []
        except UserError:
            damaged.append(verb)
    unfinished = [v for v in VERBS if (run / v).is_dir() and not (run / v / MANIFEST).is_file()]
    weights = [file.bytes for artifact in made for file in artifact.manifest.files if file.path == WEIGHTS]
    return {
        "run": run.name,
        "path": str(run),
        "done": [artifact.stage for artifact in made],
        "planned": planned(run),
        "unfinished": unfinished,
        "damaged": damaged,
        "model_bytes": weights[-1] if weights else None,
        "seconds": sum(artifact.manifest.cost.seconds for artifact in made),
        "tokens": sum(artifact.manifest.cost.tokens for artifact in made),
        "updated": max((artifact.manifest.created for artifact in made), default=None),
        "headline": headline({artifact.stage: artifact.metrics for artifact in made}),
    }


def planned(run: Path) -> list[str]:
    """The stations of the run's recipe; all there are where it has none that can be read."""
    try:
        return list(load_recipe(str(run / RECIPE_FILE), environment={}).stages)
    except UserError:
        return list(WHOLE_LIFE)


def headline(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Bits per byte of the base model, and what the later stations are judged by."""
    found = {name: metrics.get(stage, {}).get(name) for stage, name in HEADLINES}
    return {name: value for name, value in found.items() if isinstance(value, (int, float))}


def show_runs(folder: Path, *, as_json: bool = False) -> None:
    """Print the runs below `folder`."""
    if not folder.is_dir():
        raise UserError(f"there is no folder '{folder}'. Runs lie in runs/ unless --out said otherwise.")
    rows = [summarize(run) for run in find_runs(folder)]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    if not rows:
        raise UserError(f"there are no runs in '{folder}'. Make one: modelwright run quickstart")
    table = Table(
        "run", "stations", "model", "time", "last change (UTC)", "latest figure", box=None, pad_edge=False
    )
    for row in rows:
        table.add_row(*(printable(cell) for cell in _cells(row)))
    Console(markup=False, highlight=False).print(table)


def _cells(row: Mapping[str, Any]) -> list[str]:
    stations = f"{len(row['done'])} of {len({*row['planned'], *row['done']})}"
    if row["unfinished"]:
        stations += f", {row['unfinished'][0]} unfinished"
    if row["damaged"]:
        stations += f", {row['damaged'][0]} damaged"
    figures = [f"{v}: {in_words(n)} {row['headline'][n]:.3g}" for v, n in HEADLINES if n in row["headline"]]
    updated = (row["updated"] or "-").replace("T", " ").removesuffix("+00:00")
    latest = figures[0] if figures else "-"
    weights = "-" if row["model_bytes"] is None else size(row["model_bytes"])
    return [row["run"], stations, weights, duration(row["seconds"]), updated, latest]


def duration(seconds: float) -> str:
    """`3 min 20 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
