"""The command that asks what rationales save: a study of students."""

from __future__ import annotations

from typing import Annotated

import typer

from modelwright.cli.app import LOOK, AsJson, Out, Overrides, Quiet, RecipeName, app
from modelwright.cli.lives import listed, open_life, show_study


@app.command(rich_help_panel=LOOK)
def rationale_study(
    recipe: RecipeName,
    out: Out = None,
    overrides: Overrides = None,
    problems: Annotated[str, typer.Option(help="Problems to learn from.")] = "250,500,1000,2000",
    epochs: Annotated[int, typer.Option(min=1, help="How often each is learned.")] = 8,
    seeds: Annotated[int, typer.Option(min=2, help="Students of each kind.")] = 3,
    asked: Annotated[int, typer.Option(min=2, help="Problems to judge by.")] = 400,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """What a teacher's steps save: accuracy of small students against cost, with steps and without."""
    from modelwright.life import sampler_of, stage_config, stage_module

    life, stage = open_life(recipe, out, overrides, None, quiet), stage_module("rationale_study")
    settings = {
        "finetune": stage_config(life.recipe, "finetune"),
        "problems": listed(problems),
        "epochs": epochs,
        "seeds": seeds,
        "asked": asked,
    }
    chosen = stage.check(settings)
    *_, base = life.run(["prepare", "tokenize", "pretrain"])
    folder, seed = life.folder / "rationale-study", life.recipe.seed
    made = stage.study(folder, base.path, chosen, seed, sampler_of, life.view)
    show_study(made.path, "rationales", as_json)
