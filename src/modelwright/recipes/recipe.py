"""Recipes: which stations a life has, and with which settings."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import ConfigDict, Field, model_validator

from modelwright.base.config import Config, Settings, merge, parse_overrides, read_recipe, validate
from modelwright.base.errors import ConfigError, did_you_mean
from modelwright.recipes.stations import FROM_TEXT, IMPORT, STATION, STATIONS, SYNTHESIZE, VERBS, WHOLE_LIFE

RECIPE_FILE = "recipe.yaml"
"""In a run directory: the recipe as resolved, so that the run can be lived again."""
ENVIRONMENT_PREFIX = "MODELWRIGHT__"
"""MODELWRIGHT__PRETRAIN__STEPS=100 sets pretrain.steps."""


class Recipe(Config):
    """A whole life. Each section is checked by its own stage before anything runs."""

    model_config = ConfigDict(serialize_by_alias=True)

    name: str
    """Also the name of the run directory, below runs/, where none is given."""
    about: str = ""
    """One line for `modelwright recipes`."""
    seed: int = 0
    stages: tuple[str, ...] = WHOLE_LIFE
    """The stations, in the order of the life."""
    policy: Settings = {}
    """What the sources of every station must be. Who reads texts also holds each of them against it."""
    data: Settings = {}
    tokenizer: Settings = {}
    model: Settings = {}
    """The shape of the model, `depth` first; it becomes pretrain's setting of that name."""
    pretrain: Settings = {}
    import_: Settings = Field(default={}, alias="import")
    """The model from outside that a life begins with which does not begin with text."""
    synthesize: Settings = {}
    finetune: Settings = {}
    align: Settings = {}
    evaluate: Settings = {}
    average: Settings = {}
    compress: Settings = {}
    export: Settings = {}

    @model_validator(mode="after")
    def _stations_in_order(self) -> Self:
        for verb in self.stages:
            if verb not in VERBS:
                raise ValueError(f"stages: there is no station '{verb}'.{did_you_mean(verb, VERBS)}")
        ordered = sorted(set(self.stages), key=VERBS.index)
        if list(self.stages) != ordered or not ordered:
            raise ValueError(f"stages must follow the order of a life, each at most once: {', '.join(VERBS)}")
        if {"pretrain", IMPORT} <= {*self.stages}:
            raise ValueError("stages: a life begins with text (pretrain) or with a model (import), not both")
        listed = self.finetune.get("sources")
        if {SYNTHESIZE, "finetune"} <= {*self.stages} and listed and not any(map(_is_synthesize, listed)):
            raise ValueError(
                f"finetune.sources does not name '{SYNTHESIZE}', so nothing would learn from what it writes:"
                f" add '{SYNTHESIZE}' to the list, leave the list out, or take the station out of stages"
            )
        return self

    def importing(self, model: str) -> Recipe:
        """The same life, begun with a model from outside in the place of text."""
        later = (verb for verb in self.stages if verb not in (*FROM_TEXT, IMPORT))
        settings = self.model_dump(mode="json") | {"stages": (IMPORT, *later)}
        return validate(Recipe, merge(settings, {"import": {"model": model}}), f"recipe '{self.name}'")

    def section(self, verb: str) -> Settings:
        """The settings of one station."""
        settings: Settings = self.model_dump()[STATION[verb].section]
        if verb == "pretrain" and self.model:
            return merge({"model": self.model}, settings)
        if verb == "finetune" and SYNTHESIZE in self.stages:
            settings = merge({"sources": [SYNTHESIZE]}, settings)
        if verb in ("prepare", SYNTHESIZE, "finetune", "align") and self.policy:
            return merge({"policy": self.policy}, settings)
        return settings

    def to_yaml(self) -> str:
        """The recipe as a file that stands alone."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)


def shipped() -> tuple[str, ...]:
    """Names of the recipes that come with the package, the first one to try first."""
    names = sorted(
        file.name.removesuffix(".yaml") for file in _shelf().iterdir() if file.name.endswith(".yaml")
    )
    return tuple(sorted(names, key=lambda name: name != "quickstart"))


def recipe_text(name: str) -> str:
    """The YAML of a recipe: a shipped name, a file, or a run directory."""
    path = Path(name)
    if name in shipped():
        return (_shelf() / f"{name}.yaml").read_text(encoding="utf-8")
    if path.is_dir() and (path / RECIPE_FILE).is_file():
        path = path / RECIPE_FILE
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"recipe {path} is no text in UTF-8 (byte {error.start}): {error.reason}"
            ) from error
    raise ConfigError(
        f"there is no recipe '{name}': expected the name of a shipped recipe, a YAML file, or the directory"
        f" of a run.{did_you_mean(name, shipped())}"
    )


def load_recipe(
    name: str, overrides: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Recipe:
    """The recipe with everything that was set on top. The later wins: what a recipe extends, the
    recipe, the environment, `path=value` overrides of the command line."""
    settings = read_recipe(name, recipe_text)
    settings = merge(settings, parse_overrides(_from_environment(environment)))
    settings = merge(settings, parse_overrides(overrides))
    default_name = Path(name).stem if not Path(name).is_dir() else Path(name).resolve().name
    return validate(Recipe, {"name": default_name, **settings}, f"recipe '{name}'")


def run_directory(name: str, recipe: Recipe) -> Path:
    """Where a recipe lives by default: in the run directory that was named, or in runs/<recipe>."""
    path = Path(name)
    if path.name == RECIPE_FILE:
        return path.parent
    return path if name not in shipped() and path.is_dir() else Path("runs") / recipe.name


def parse_inputs(assignments: Sequence[str]) -> dict[str, Path]:
    """["model=runs/a/finetune"] -> {"model": Path("runs/a/finetune")}."""
    roles = {"model", *(station.role for station in STATIONS)}
    inputs: dict[str, Path] = {}
    for assignment in assignments:
        role, equals, path = assignment.partition("=")
        if not equals or role not in roles:
            raise ConfigError(f"--input got '{assignment}', expected role=PATH.{did_you_mean(role, roles)}")
        inputs[role] = Path(path)
    return inputs


def _is_synthesize(source: Any) -> bool:
    """Whether a source of a recipe is what the station of that name writes."""
    return (source.get("path") if isinstance(source, dict) else source) == SYNTHESIZE


def _from_environment(environment: Mapping[str, str] | None) -> list[str]:
    variables = os.environ if environment is None else environment
    return [
        f"{name.removeprefix(ENVIRONMENT_PREFIX).lower().replace('__', '.')}={value}"
        for name, value in sorted(variables.items())
        if name.startswith(ENVIRONMENT_PREFIX)
    ]


def _shelf() -> Traversable:
    return files("modelwright.recipes")
