"""What averaging weights buys against lowering the learning rate: 5 seeds, 4 schedules, 2 lengths, on novels;
two of the schedules again at a second size.

    make bench NAME=averaging                        # about 20 minutes on two quiet cores
    python benchmarks/averaging.py runs/averaging    # goes on with, or publishes, a study in this folder

There is no peer but the schedule that is usually taken. Losses do not depend on how busy the machine is.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelwright.base.artifact import MANIFEST, Artifact
from modelwright.base.progress import choose_view
from modelwright.life import Life, stage_config, stage_module
from modelwright.recipes.recipe import load_recipe
from novels import SOURCE
from record import publish

SHARED = (
    f"data.sources=[{SOURCE}]",
    "data.atlas_size_bytes=300000",
    "tokenizer.vocab_size=1024",
    "pretrain.rows=8",
    "pretrain.compute.dtype=float32",
    "pretrain.compute.compile=never",
)


@dataclass(frozen=True, slots=True)
class Size:
    """A network, and what is trained of it."""

    recipe: tuple[str, ...]
    study: dict[str, Any]


FIRST, SECOND = "average-study", "average-study-second"
SIZES = {
    FIRST: Size(
        (
            "model.depth=2",
            "model.hidden_size=64",
            "model.head_dim=32",
            "model.max_position_embeddings=128",
            "pretrain.context=64",
        ),
        {"horizons": (64_000, 256_000), "seeds": 5, "validation_tokens": 20_000},
    ),
    SECOND: Size(
        (
            "model.depth=4",
            "model.hidden_size=128",
            "model.head_dim=32",
            "model.max_position_embeddings=128",
            "pretrain.context=128",
        ),
        {
            "horizons": (1_024_000,),
            "seeds": 5,
            "validation_tokens": 20_000,
            "schedules": {kind: {"kind": kind} for kind in ("wsd", "constant")},
        },
    ),
}
"""What is found at the first size is looked at again at the second: six times the parameters, and twice the
steps of twice as many tokens."""


def main(folder: Path) -> None:
    """Both studies, unless they are done; publish."""
    found = {name: study(folder, name) for name in SIZES}
    notes = " ".join((__doc__ or "").split())
    publish("averaging", [], ("torch", "numpy"), notes, {**found[FIRST], "second": found[SECOND]})


def study(folder: Path, name: str) -> dict[str, Any]:
    """What a study found, and of what."""
    size = SIZES[name]
    if not (folder / name / MANIFEST).is_file():
        life = Life(load_recipe("text", (*SHARED, *size.recipe)), folder, choose_view(False))
        stage = stage_module("averaging_study")
        chosen = stage.check({"pretrain": stage_config(life.recipe, "pretrain"), **size.study})
        *_, tokens = life.run(["prepare", "tokenize"])
        stage.study(folder / name, tokens.path, chosen, life.recipe.seed, life.view)
    made = Artifact.load(folder / name)
    found = json.loads(made.file("averaging.json").read_text(encoding="utf-8"))
    cells = [Artifact.load(path.parent) for path in sorted(made.path.glob("cells/*/manifest.json"))]
    about = {
        "corpus": "novels (litbank), a vocabulary of 1,024",
        "model": ", ".join(setting.removeprefix("model.") for setting in size.recipe),
        "trained_with": made.manifest.revision,
        "seconds_of_all_cells": sum(cell.manifest.cost.seconds for cell in cells),
        "parameters": next(cell.metrics["parameters"] for cell in cells if cell.stage == "pretrain"),
    }
    return {**about, **found}


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs") / "averaging-benchmark")
