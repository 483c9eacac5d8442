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
    "model.max_position_embeddings=256",
    "pretrain.context=128",
    "pretrain.rows=8",
    "pretrain.validation_tokens=60000",
)
LADDER = {"rungs": ("2x64", "2x128", "3x192", "4x256"), "budget": "6e13", "levels": 4}


def main(folder: Path) -> None:
    """Climb, unless that is done; publish."""
    if not (folder / "scale" / MANIFEST).is_file():
        life = Life(load_recipe("text", RECIPE), folder, choose_view(False))
        stage = stage_module("scale")
        chosen = stage.check({"pretrain": stage_config(life.recipe, "pretrain"), **LADDER})
        *_, tokens = life.run(["prepare", "tokenize"])
        stage.scale(folder / "scale", tokens.path, chosen, life.recipe.seed, life.view)
    made = Artifact.load(folder / "scale")
    found = json.loads(made.file("scale.json").read_text(encoding="utf-8"))
    cells = [Artifact.load(path.parent) for path in sorted(made.path.glob("cells/*/manifest.json"))]
    about = {
        "ladder": {
            name: made.manifest.config[name] for name in ("rungs", "budget", "levels", "factor", "seeds")
        },
        "corpus": "novels (litbank), a vocabulary of 1,024",
        "trained_with": made.manifest.revision,
        "training_seconds": sum(cell.manifest.cost.seconds for cell in cells),
    }
    publish("scaling", [], ("torch", "numpy"), " ".join((__doc__ or "").split()), {**about, "scale": found})


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs") / "scaling-benchmark")
