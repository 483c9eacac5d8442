"""Stages by name, and their settings as a recipe gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from modelwright.base.artifact import Artifact
from modelwright.base.config import Config, validate
from modelwright.base.seams import Sampler
from modelwright.recipes.recipe import Recipe
from modelwright.recipes.stations import STATION


def stage_module(verb: str) -> ModuleType:
    """`modelwright.stages.<verb>`: Config, INPUTS, run."""
    named = STATION[verb].module if verb in STATION else ""
    return import_module(f"modelwright.stages.{named or verb}")


def stage_config(recipe: Recipe, verb: str) -> Config:
    """A station's settings, validated by the stage itself."""
    where = f"section '{STATION[verb].section}' of recipe '{recipe.name}'"
    return validate(stage_module(verb).Config, recipe.section(verb), where)


def taught_from_atlas(recipe: Recipe, configs: Mapping[str, Config]) -> str:
    """A line for who pre-trains on texts of their own, where later stations teach from the embedded corpus
    all the same; "" where that is not the case."""
    teaching = [verb for verb, config in configs.items() if verb != "prepare" and reads_atlas(config)]
    if not teaching or "prepare" not in recipe.stages:
        return ""
    if reads_atlas(stage_config(recipe, "prepare")) is not False:
        return ""
    return (
        f"Note: pretrain reads your texts, but what {' and '.join(teaching)} teach comes from the embedded"
        " corpus, atlas. For a model of your texts alone: modelwright run text --set data.sources=[...]"
    )


def reads_atlas(config: Config) -> bool | None:
    """Whether a station's sources hold the embedded corpus; None where it has none."""
    sources = getattr(config, "sources", ())
    return any(source.is_atlas for source in sources) if sources else None


def resolved(recipe: Recipe) -> dict[str, Any]:
    """The recipe with every default filled in."""
    settings = recipe.model_dump(mode="json")
    for verb in recipe.stages:
        settings[STATION[verb].section] = stage_config(recipe, verb).model_dump(mode="json")
    settings["model"] = settings["pretrain"].pop("model", settings["model"])
    return settings


def write_report(folder: Path) -> Path:
    """The self-contained page over a run directory."""
    return import_module("modelwright.stages.report").write_report(Path(folder))


def sampler_of(model: Any, tokenizer: Any, slots: int, *, use_compiled: bool = False) -> Sampler:
    """What answers with a model while a station trains it."""
    answering = import_module("modelwright.stages.answering")
    return answering.sampler_of(model, tokenizer, slots, use_compiled=use_compiled)


def taught_at_step(artifact: Artifact, step: int) -> tuple[str, list[dict[str, Any]]]:
    """What a step of a fine-tuning or an alignment learned from: the kind of texts, and a row for each."""
    return stage_module("reading_examples").examples_of_step(artifact, step)


def read_at_step(artifact: Artifact, step: int) -> list[tuple[int, str, str, int, int]]:
    """What a step of the pre-training above an artifact read: (row, document, source, first, tokens)."""
    reading = stage_module("reading").reading_of(artifact.path, artifact.ancestry())
    return [astuple(piece) for piece in reading.of_step(step)]
