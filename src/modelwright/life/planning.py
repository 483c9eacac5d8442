"""What a recipe will need, before it is lived; and afterwards, what it needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modelwright.base.artifact import MANIFEST, Artifact, Cost
from modelwright.base.files import write_json
from modelwright.life.loading import stage_config, stage_module
from modelwright.recipes.recipe import Recipe

PLAN = "plan.json"


def forecast(recipe: Recipe, **how: Any) -> Any:
    """The forecast of a recipe's stations (planning/forecast.py); `how` as in `stages/forecast.py`,
    `plan`."""
    configs = {verb: stage_config(recipe, verb) for verb in recipe.stages}
    return stage_module("forecast").plan(recipe.name, configs, **how)


def keep_forecast(recipe: Recipe, folder: Path, **how: Any) -> Path:
    """Write the forecast beside the recipe, so that it can be held against what comes of it. A run that goes
    on keeps the forecast that it began with."""
    file = folder / PLAN
    if not file.is_file():
        write_json(file, forecast(recipe, **how).model_dump(mode="json"))
    return file


def forecast_of(recipe: Recipe, folder: Path) -> tuple[Any, bool, dict[str, Cost]]:
    """A run's forecast, whether it was made before the run, and what its finished stations took."""
    configs = {verb: stage_config(recipe, verb) for verb in recipe.stages}
    made, before = stage_module("forecast").plan_again(folder, configs, recipe.name)
    done = [verb for verb in recipe.stages if (folder / verb / MANIFEST).is_file()]
    return made, before, {verb: Artifact.load(folder / verb).manifest.cost for verb in done}
