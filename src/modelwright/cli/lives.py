"""Commands that live a recipe: all of it, or one station."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from modelwright.cli.app import LIFE, STATION, Force, Inputs, Out, Overrides, Quiet, RecipeName, app
from modelwright.recipes.stations import STATIONS, Station

Search = Annotated[
    bool,
    typer.Option("--search", help="First try learning rates and ranks for finetune (finetune.search)."),
]


@app.command(rich_help_panel=LIFE)
def run(
    recipe: RecipeName,
    out: Out = None,
    overrides: Overrides = None,
    inputs: Inputs = None,
    start: Annotated[str | None, typer.Option("--from", help="Begin at this station.")] = None,
    until: Annotated[str | None, typer.Option("--until", help="Stop after this station.")] = None,
    search: Search = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Live a whole recipe: skip what is done, resume what was interrupted, run the rest."""
    life = open_life(recipe, out, overrides, inputs, quiet)
    life.searches = search
    life.run(life.between(start, until), force=force)
    if until is None or until == life.recipe.stages[-1]:
        life.finish()


def open_life(
    recipe: str, out: Path | None, overrides: list[str] | None, inputs: list[str] | None, quiet: bool
) -> Any:
    """The life of a recipe as the options of a command describe it."""
    from modelwright.base.progress import choose_view
    from modelwright.base.world import place
    from modelwright.life import kind_of_life
    from modelwright.recipes.recipe import load_recipe, parse_inputs, run_directory

    loaded = load_recipe(recipe, overrides or ())
    folder = out or run_directory(recipe, loaded)
    view = choose_view(quiet or not place().is_first)
    return kind_of_life()(loaded, folder, view, parse_inputs(inputs or ()))


def listed(text: str) -> list[str]:
    """What an option such as "1024, 2048" names."""
    return [each.strip() for each in text.split(",")]


def show_study(folder: Path, name: str, as_json: bool) -> None:
    """Print what a study found, or where its page is."""
    print((folder / f"{name}.json").read_text("utf-8") if as_json else folder / f"{name}.html")


def _station_command(station: Station) -> Callable[..., None]:
    def command(
        recipe: RecipeName,
        out: Out = None,
        overrides: Overrides = None,
        inputs: Inputs = None,
        force: Force = False,
        quiet: Quiet = False,
    ) -> None:
        open_life(recipe, out, overrides, inputs, quiet).run([station.verb], force=force)

    command.__doc__ = f"{station.about[0].upper()}{station.about[1:]}."
    return command


def _finetune(
    recipe: RecipeName,
    out: Out = None,
    overrides: Overrides = None,
    inputs: Inputs = None,
    search: Search = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Conversations -> a model that answers."""
    life = open_life(recipe, out, overrides, inputs, quiet)
    life.searches = search
    life.run(["finetune"], force=force)


for _station in STATIONS:
    _command = _finetune if _station.verb == "finetune" else _station_command(_station)
    app.command(_station.verb, rich_help_panel=STATION)(_command)
