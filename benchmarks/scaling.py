"""A scaling ladder on novels: the law, its intervals, and whether the forecast of the next rung held.

    make bench NAME=scaling                          # about 15 minutes on two quiet cores
    python benchmarks/scaling.py runs/ladder         # goes on with, or publishes, a ladder in this folder

There is no peer: what is measured is the forecast against what came. Losses do not depend on how busy
the machine is; only the time does.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from modelwright.base.progress import choose_view
from modelwright.life import Life, stage_config, stage_module
from modelwright.recipes.recipe import load_recipe
from record import publish

ROOT = Path(__file__).parents[1]
NOVELS = ROOT.parent / "shared" / "data" / "litbank_novels" / "*.parquet"
SOURCE = (
    f"{{path: '{NOVELS}', name: novels, licence: LicenseRef-public-domain, jurisdiction: US, "
    "legal_basis: public domain, retention: indefinite, personal_data: false}"
)
RECIPE = (
    f"data.sources=[{SOURCE}]",
    "data.atlas_size_bytes=300000",
    "tokenizer.vocab_size=1024",
    "model.max_position_embeddings=256",
    "pretrain.context=128",
    "pretrain.rows=8",
    "pretrain.validation_tokens=60000",
)
LADDER = {"rungs": ("2x64", "2x128", "3x192", "4x256"), "budget": "6e13", "levels": 4}


def main(folder: Path) -> None:
    """Climb, publish."""
    life = Life(load_recipe("text", RECIPE), folder, choose_view(False))
    stage = stage_module("scale")
    chosen = stage.check({"pretrain": stage_config(life.recipe, "pretrain"), **LADDER})
    *_, tokens = life.run(["prepare", "tokenize"])
    made = stage.scale(folder / "scale", tokens.path, chosen, life.recipe.seed, life.view)
    found = json.loads((made.path / "scale.json").read_text(encoding="utf-8"))
    cells = sorted((made.path / "cells").glob("*/manifest.json"))
    costs = [json.loads(path.read_text(encoding="utf-8"))["cost"]["seconds"] for path in cells]
    about = {"ladder": LADDER, "corpus": "92 novels (litbank), 1,024 ids", "training_seconds": sum(costs)}
    publish("scaling", [], ("torch", "numpy"), " ".join((__doc__ or "").split()), {**about, **found})


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs") / "scaling-benchmark")
