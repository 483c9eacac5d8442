"""What a teacher's steps save a small student: 3 ways, 4 to 5 amounts, 3 seeds, chains of sums.

    make bench NAME=rationales                           # about 20 minutes on one core
    python benchmarks/rationales.py runs/rationales      # goes on with, or publishes, a study in this folder

There is no peer but the student of answers alone. Accuracies and costs are the same on a busy machine.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from modelwright.base.artifact import MANIFEST, Artifact
from modelwright.base.progress import choose_view
from modelwright.life import Life, sampler_of, stage_config, stage_module
from modelwright.recipes.recipe import load_recipe
from record import publish

STUDY = {
    "problems": (250, 500, 1000, 2000),
    "more_answers": (4000,),
    "epochs": 8,
    "seeds": 3,
    "asked": 400,
}


def main(folder: Path) -> None:
    """Study, unless that is done; publish."""
    if not (folder / "rationale-study" / MANIFEST).is_file():
        life = Life(load_recipe("rationales"), folder, choose_view(False))
        stage = stage_module("rationale_study")
        chosen = stage.check({"finetune": stage_config(life.recipe, "finetune"), **STUDY})
        *_, base = life.run(["prepare", "tokenize", "pretrain"])
        seed = life.recipe.seed
        stage.study(folder / "rationale-study", base.path, chosen, seed, sampler_of, life.view)
    made = Artifact.load(folder / "rationale-study")
    found = json.loads(made.file("rationales.json").read_text(encoding="utf-8"))
    cells = [Artifact.load(path.parent) for path in sorted(made.path.glob("cells/*/manifest.json"))]
    about = {
        "task": "chains of four digits; a student of 3 layers x 64, pre-trained on 150,000 tokens of atlas",
        "trained_with": made.manifest.revision,
        "study": STUDY,
        "seconds_of_all_cells": sum(cell.manifest.cost.seconds for cell in cells),
    }
    publish("rationales", [], ("torch", "numpy"), " ".join((__doc__ or "").split()), {**about, **found})


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs") / "rationales-benchmark")
