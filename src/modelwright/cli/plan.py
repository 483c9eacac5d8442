"""The command that says what something will need before it runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from modelwright.base.errors import ConfigError
from modelwright.cli.app import LOOK, AsJson, Inputs, Out, Overrides, app

Shard = Literal["none", "fsdp", "hsdp"]


@app.command(rich_help_panel=LOOK)
def plan(
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe, or the directory of a run: forecast against actual.")
    ] = None,
    overrides: Overrides = None,
    inputs: Inputs = None,
    on: Annotated[str, typer.Option(help="A machine: H100, 4090, m3-max..., or 'here'.")] = "here",
    devices: Annotated[int, typer.Option(min=1, help="How many of them.")] = 1,
    price_file: Annotated[
        Path | None, typer.Option(help="Prices of your own (YAML), in place of the shipped ones.")
    ] = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Run a few real steps of each training here, and measure.")
    ] = False,
    out: Out = None,
    model: Annotated[
        str | None, typer.Option(help="A model's needs instead: 7B, llama-3.1-8b, a folder, a config.json.")
    ] = None,
    context: Annotated[int, typer.Option(min=1, help="With --model: tokens in a sequence.")] = 4096,
    rows: Annotated[int, typer.Option(min=1, help="With --model: sequences at once.")] = 1,
    shard: Annotated[
        Shard | None,
        typer.Option(help="How --devices hold a model in training (fsdp); with a recipe, its own."),
    ] = None,
    tensor: Annotated[int | None, typer.Option(min=1, help="Tensor-parallel ways among --devices.")] = None,
    as_json: AsJson = False,
) -> None:
    """Forecast memory, time, money and energy of a recipe or a model; hold a run against its forecast."""
    from modelwright.terminal import plan as view

    if (recipe is None) == (model is None):
        raise ConfigError("plan needs either a recipe (modelwright plan quickstart) or --model (--model 7B)")
    if model is not None and (shard is not None or devices > 1 or tensor is not None):
        view.show_sharding(model, on, devices, shard or "fsdp", tensor or 1, rows, context, as_json)
    elif model is not None:
        view.show_model(model, on, context, rows, as_json)
    elif recipe is not None:
        from modelwright.life import planning
        from modelwright.recipes.recipe import RECIPE_FILE, load_recipe, parse_inputs, run_directory

        loaded, folder = load_recipe(recipe, overrides or ()), Path(recipe)
        if (
            folder.is_dir()
            and (folder / RECIPE_FILE).is_file()
            and on == "here"
            and not probe
            and not overrides
            and devices == 1
        ):
            view.show_comparison(folder, *planning.forecast_of(loaded, folder), as_json)
            return
        given = parse_inputs(inputs or ())
        start = given.get("model")
        here = on == "here" and devices == 1  # this machine's devices and processes, as they are now
        if lacks := planning.lacks(
            loaded, out or run_directory(recipe, loaded), in_line=not given, here=here
        ):
            print(f"note: such a run would be refused{' now' if here else ''}. {lacks}", file=sys.stderr)
        for remark in planning.remarks(loaded, start):
            print(f"note: {remark}", file=sys.stderr)
        how = {"on": on, "devices": devices, "price_file": price_file, "probe": probe, "model": start}
        how |= {"say": lambda line: print(line, file=sys.stderr)}
        how |= {"shard": shard, "tensor": tensor}
        if out is not None:
            planning.keep_forecast(loaded, out, **how)
        view.show_forecast(planning.forecast(loaded, **how), as_json)
