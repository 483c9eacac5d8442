"""A life whose stations note their settings and make nothing: what each of several processes was told."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from modelwright.base.artifact import Artifact
from modelwright.base.config import Config
from modelwright.base.run import Run
from modelwright.base.world import place
from modelwright.cli import main
from modelwright.life import loading

STATIONS = ("prepare", "tokenize", "pretrain", "finetune")


def live(arguments: list[str], notes: Path) -> None:
    """`modelwright ARGUMENTS`; a line of each station and process goes to `notes/RANK`."""

    def run(config: Config, run: Run) -> Artifact:
        inputs = {role: made.id for role, made in run.inputs.items()}
        told = {
            "stage": run.stage,
            "seed": run.seed,
            "config": config.model_dump(mode="json"),
            "inputs": inputs,
        }
        with (notes / str(place().rank)).open("a") as file:
            file.write(json.dumps(told) + "\n")
        return run.finish([])

    for verb in STATIONS:
        vars(loading.stage_module(verb))["run"] = run
    sys.exit(main(arguments))
