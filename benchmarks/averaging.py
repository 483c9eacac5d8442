"""What averaging weights buys against lowering the learning rate: 5 seeds, 4 schedules, 2 lengths, on novels.

    make bench NAME=averaging                        # about 15 minutes on two quiet cores
    python benchmarks/averaging.py runs/averaging    # goes on with, or publishes, a study in this folder

There is no peer but the schedule that is usually taken. Losses do not depend on how busy the machine is.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from modelwright.base.artifact import MANIFEST, Artifact
from modelwright.base.progress import choose_view
from modelwright.life import Life, stage_config, stage_module
from modelwright.recipes.recipe import load_recipe
from novels import SOURCE
from record import publish

RECIPE = (
    f"data.sources=[{SOURCE}]",
    "data.atlas_size_bytes=300000",
    "tokenizer.vocab_size=1024",
    "model.depth=2",
    "model.hidden_size=64",
    "model.head_dim=32",
    "model.max_position_embeddings=128",
    "pretrain.context=64",
    "pretrain.rows=8",
    "pretrain.compute.dtype=float32",
    "pretrain.compute.compile=never",
)
STUDY = {"horizons": (64_000, 256_000), "seeds": 5, "validation_tokens": 20_000}


def main(folder: Path) -> None:
    """Study, unless that is done; publish."""
    if not (folder / "average-study" / MANIFEST).is_file():
        life = Life(load_recipe("text", RECIPE), folder, choose_view(False))
        stage = stage_module("averaging_study")
        chosen = stage.check({"pretrain": stage_config(life.recipe, "pretrain"), **STUDY})
        *_, tokens = life.run(["prepare", "tokenize"])
        stage.study(folder / "average-study", tokens.path, chosen, life.recipe.seed, life.view)
    made = Artifact.load(folder / "average-study")
    found = json.loads(made.file("averaging.json").read_text(encoding="utf-8"))
    cells = [Artifact.load(path.parent) for path in sorted(made.path.glob("cells/*/manifest.json"))]
    about = {
        "corpus": "novels (litbank), a vocabulary of 1,024; a model of 2 layers x 64",
        "trained_with": made.manifest.revision,
        "seconds_of_all_cells": sum(cell.manifest.cost.seconds for cell in cells),
        "parameters": next(cell.metrics["parameters"] for cell in cells if cell.stage == "pretrain"),
    }
    publish("averaging", [], ("torch", "numpy"), " ".join((__doc__ or "").split()), {**about, **found})


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs") / "averaging-benchmark")
