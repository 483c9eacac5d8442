"""Taking a source or a document out of a run, and out of what was made from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modelwright.base.artifact import MANIFEST, Artifact
from modelwright.base.config import validate
from modelwright.base.files import write_text
from modelwright.base.progress import View
from modelwright.life import loading
from modelwright.life.folder import REPLACED, locked
from modelwright.life.life import Life
from modelwright.recipes.recipe import RECIPE_FILE, Recipe, load_recipe


def forget(folder: Path, names: Sequence[str], view: View, *, yes: bool) -> list[Any]:
    """Where sources or documents of a run are and what saw them; with `yes` they are taken out of its recipe
    and corpus, and what was made from them is made again."""
    stage, recipe = loading.stage_module("forget"), load_recipe(str(folder), environment={})
    artifacts = [Artifact.load(folder / v) for v in recipe.stages if (folder / v / MANIFEST).is_file()]
    targets = [stage.find_target(name, artifacts) for name in names]
    seen = [stage.look(target, artifacts, folder) for target in targets]
    if not yes:
        return seen
    settings = recipe.model_dump(mode="json")
    for target in targets:
        settings = stage.edit_recipe(settings, target)
    changed = validate(Recipe, settings, f"the recipe of {folder}")
    life = Life(changed, folder, view)
    with locked(folder):
        as_before = Life(recipe, folder, view).is_up_to_date("prepare")
        write_text(folder / RECIPE_FILE, changed.to_yaml())
        if as_before and all(target.source is None for target in targets):
            life.edit_corpus(stage, targets)
        stage.remove([folder / REPLACED])
    try:
        life.run([made.stage for made in artifacts])
    finally:
        stage.remove([folder / REPLACED])
    return seen
