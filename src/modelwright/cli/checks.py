"""Commands about recipes, reports and this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from modelwright.cli.app import LOOK, AsJson, Overrides, RecipeName, app


@app.command(rich_help_panel=LOOK)
def recipes(
    name: Annotated[str | None, typer.Argument(help="Print this recipe.")] = None, as_json: AsJson = False
) -> None:
    """List the shipped recipes, or print one to start your own from."""
    from modelwright.recipes.recipe import load_recipe, recipe_text, shipped

    if name is not None:
        print(recipe_text(name), end="")
        return
    rows = {recipe: load_recipe(recipe, environment={}).about for recipe in shipped()}
    widest = max(map(len, rows))
    lines = "\n".join(f"{recipe:{widest}} {about}" for recipe, about in rows.items())
    print(json.dumps(rows, indent=2) if as_json else lines)


@app.command(rich_help_panel=LOOK)
def validate(recipe: RecipeName, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Check a recipe and print it with every default filled in. Runs nothing."""
    import yaml

    from modelwright.life import resolved
    from modelwright.recipes.recipe import load_recipe

    settings = resolved(load_recipe(recipe, overrides or ()))
    print(json.dumps(settings, indent=2) if as_json else yaml.safe_dump(settings, sort_keys=False), end="")


@app.command(rich_help_panel=LOOK)
def report(folder: Annotated[Path, typer.Argument(help="A run directory.")]) -> None:
    """Write a run's report.html anew and print where it is."""
    from modelwright.life import write_report

    print(write_report(folder))


@app.command(rich_help_panel=LOOK)
def env(as_json: AsJson = False) -> None:
    """Versions, processor, optional readers: what a bug report needs."""
    from modelwright.terminal import environment

    environment.show_environment(as_json=as_json)
