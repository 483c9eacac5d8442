"""The command about scaling laws."""

from __future__ import annotations

from typing import Annotated

import typer

from modelwright.cli.app import LOOK, AsJson, Out, Overrides, Quiet, RecipeName, app
from modelwright.cli.lives import listed, open_life, show_study


@app.command(rich_help_panel=LOOK)
def scale(
    recipe: RecipeName,
    out: Out = None,
    overrides: Overrides = None,
    rungs: Annotated[
        str, typer.Option(help="Sizes, layers x width; the last is forecast, then run.")
    ] = "2x64,3x128,4x192,5x256,6x320",
    budget: Annotated[str, typer.Option(help="All runs together: FLOPs (2e14), or time (15min).")] = "15min",
    levels: Annotated[int, typer.Option(min=3, help="Costs at which each size is trained.")] = 4,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each size at each cost.")] = 1,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train a ladder of small models, fit a scaling law, forecast the next rung, run it, and judge."""
    from modelwright.life import stage_config, stage_module

    life, stage = open_life(recipe, out, overrides, None, quiet), stage_module("scale")
    settings = {
        "pretrain": stage_config(life.recipe, "pretrain"),
        "rungs": listed(rungs),
        "budget": budget,
        "levels": levels,
        "seeds": seeds,
    }
    chosen = stage.check(settings)
    *_, tokens = life.run(["prepare", "tokenize"])
    made = stage.scale(life.folder / "scale", tokens.path, chosen, life.recipe.seed, life.view)
    show_study(made.path, "scale", as_json)
