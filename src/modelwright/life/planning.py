"""What a recipe will need, before it is lived; and afterwards, what it needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modelwright.base.artifact import MANIFEST, Artifact, Cost
from modelwright.base.config import Config, trains, writes
from modelwright.base.errors import UserError
from modelwright.base.run import Run, machine
from modelwright.base.world import World, place
from modelwright.life import outside
from modelwright.life.loading import stage_config, stage_module
from modelwright.recipes.recipe import Recipe


def forecast(recipe: Recipe, **how: Any) -> Any:
    """The forecast of a recipe's stations (planning/forecast.py); `how` as in `stages/forecast.py`,
    `plan`."""
    configs = {verb: stage_config(recipe, verb) for verb in recipe.stages}
    return stage_module("forecast").plan(recipe.name, configs, **how)


def lacks(recipe: Recipe, folder: Path, *, in_line: bool = True, here: bool = True) -> str:
    """Why a life of the recipe in `folder` would be refused before it begins, else "". A forecast needs none
    of it: a key or a teacher may be there only where the life is lived. `in_line`, `here`: as in
    `outside.check`."""
    configs = {verb: stage_config(recipe, verb) for verb in recipe.stages}
    try:
        outside.check(configs, folder, in_line=in_line, here=here)
    except UserError as error:
        return str(error)
    return ""


def remarks(recipe: Recipe, model: Path | None = None) -> list[str]:
    """What stations have to say of their settings, without refusing them: `remarks(config, model)`. `model`:
    the folder that a life begins with, where the recipe names none."""
    configs: dict[str, Any] = {verb: stage_config(recipe, verb) for verb in recipe.stages}
    if model is None and "import" in configs:
        model = Path(configs["import"].model)
    stages = {verb: stage_module(verb) for verb in configs}
    return [
        f"{verb}: {remark}"
        for verb, stage in stages.items()
        if hasattr(stage, "remarks")
        for remark in stage.remarks(configs[verb], model)
    ]


def keep_forecast(recipe: Recipe, folder: Path, **how: Any) -> Any:
    """Make the forecast and write it beside the recipe, so that it can be held against what comes of it. What
    was said of a station before it ran stays."""
    return stage_module("forecast").keep(forecast(recipe, **how), folder)


def foretell(recipe: Recipe, folder: Path, run: Run) -> None:
    """Keep the forecast of a recipe before a station of it trains or writes, and say the station's. One that
    cannot be made costs a line of the log and never the run."""
    if run.stage not in recipe.stages or not _is_foretold(run.config) or not run.keeps:
        return
    there = place() if machine().get("gpu") else World()  # processes on a CPU share the one there is
    how = {"devices": there.size, "node": there.local_size, "say": run.log}
    given = run.inputs.get("model")
    try:
        made = keep_forecast(recipe, folder, **how, model=given.file("model") if given else None)
        run.log(f"forecast: {stage_module('forecast').before(made, run.stage)}")
    except Exception as error:
        run.log(f"no forecast: {type(error).__name__}: {error}")


def outcome(recipe: Recipe, folder: Path, verb: str) -> str:
    """A line on what a station that trains or writes took, where it was forecast before; else ""."""
    if verb not in recipe.stages or not _is_foretold(stage_config(recipe, verb)):
        return ""
    try:
        made, before, costs = forecast_of(recipe, folder)
        return stage_module("forecast").after(made, verb, costs) if before else ""
    except Exception as error:
        return f"no comparison with the forecast: {type(error).__name__}: {error}"


def _is_foretold(config: Config) -> bool:
    """Of the others there is only a rough throughput."""
    return trains(config) or writes(config)


def forecast_of(recipe: Recipe, folder: Path) -> tuple[Any, bool, dict[str, Cost]]:
    """A run's forecast, whether it was made before the run, and what its finished stations took."""
    configs = {verb: stage_config(recipe, verb) for verb in recipe.stages}
    made, before = stage_module("forecast").plan_again(folder, configs, recipe.name)
    done = [verb for verb in recipe.stages if (folder / verb / MANIFEST).is_file()]
    return made, before, {verb: Artifact.load(folder / verb).manifest.cost for verb in done}
