"""The command about averages of weights that is no station: the study."""

from __future__ import annotations

from typing import Annotated

import typer

from modelwright.cli.app import LOOK, AsJson, Out, Overrides, Quiet, RecipeName, app
from modelwright.cli.lives import listed, open_life, show_study


@app.command(rich_help_panel=LOOK)
def average_study(
    recipe: RecipeName,
    out: Out = None,
    overrides: Overrides = None,
    horizons: Annotated[str, typer.Option(help="Tokens in a run.")] = "100000,400000",
    seeds: Annotated[int, typer.Option(min=2, help="Runs of each kind.")] = 5,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Compare averages of weights with lowering the learning rate, over seeds (average study)."""
    from modelwright.life import stage_config, stage_module

    life, stage = open_life(recipe, out, overrides, None, quiet), stage_module("averaging_study")
    settings = {
        "pretrain": stage_config(life.recipe, "pretrain"),
        "horizons": listed(horizons),
        "seeds": seeds,
    }
    chosen = stage.check(settings)
    *_, tokens = life.run(["prepare", "tokenize"])
    made = stage.study(life.folder / "average-study", tokens.path, chosen, life.recipe.seed, life.view)
    show_study(made.path, "averaging", as_json)
