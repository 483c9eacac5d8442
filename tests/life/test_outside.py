"""What is missing outside a run is said before its first station works, by the life and by the plan."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from modelwright.base.artifact import MANIFEST
from modelwright.base.config import merge
from modelwright.base.errors import UserError
from modelwright.base.files import write_json
from modelwright.base.progress import PlainView
from modelwright.life import Life, planning
from modelwright.life.loading import stage_config
from modelwright.life.outside import waiting
from modelwright.recipes.recipe import Recipe

ROWS = "question,answer\nWhat is one plus one?,Two.\n"
MISSING: list[tuple[str, dict[str, Any], str]] = [
    ("evaluate", {"questions": ["{here}/qestions.csv"]}, "Did you mean 'questions.csv'"),
    ("evaluate", {"suites": ["aritmetic"]}, "Did you mean 'arithmetic'"),
    (
        "finetune",
        {"teacher": {"model": "{here}/teachr", "licence": "MIT"}},
        "teachr.* Did you mean 'teacher'",
    ),
    ("finetune", {"forgetting": {"suites": ["aritmetic"]}}, "Did you mean 'arithmetic'"),
    (
        "finetune",
        {"sources": [{"path": "{here}/questions.csv", "licence": "MIT"}]},
        r"no conversation of .*questions\.csv is held out, .* 5 % .* validation_sources",
    ),
    (
        "finetune",
        {
            "sources": [{"path": "atlas"}],
            "validation_sources": [{"path": "{here}/none.csv", "licence": "MIT"}],
        },
        r"validation_sources \(.*none\.csv\) hold no conversation",
    ),
    ("synthesize", {}, "synthesize.writer is missing"),
    ("synthesize", {"writer": {"model": "{here}/teachr", "licence": "MIT"}}, "Did you mean 'teacher'"),
    (
        "synthesize",
        {"writer": {"url": "http://localhost:1/v1", "model": "m", "key_from": "NO_SUCH_KEY"}},
        "NO_SUCH_KEY .* is empty or not set",
    ),
    (
        "synthesize",
        {"writer": {"url": "http://localhost:1/v1", "model": "m"}, "judge": {}},
        "judge.writer is missing",
    ),
]


def filled(value: Any, here: Path) -> Any:
    """`value` with the test's folder in its paths."""
    if isinstance(value, dict):
        return {key: filled(each, here) for key, each in value.items()}
    if isinstance(value, list):
        return [filled(each, here) for each in value]
    return value.replace("{here}", str(here)) if isinstance(value, str) else value


@pytest.mark.parametrize(("verb", "settings", "said"), MISSING)
def test_it_is_said_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, settings: dict[str, Any], said: str
) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    (tmp_path / "questions.csv").write_text(ROWS)
    (tmp_path / "none.csv").write_text("question,answer\n")
    (tmp_path / "teacher").mkdir()
    recipe = Recipe(
        name="test", stages=("prepare", "tokenize", "pretrain", verb), **{verb: filled(settings, tmp_path)}
    )
    life = Life(recipe, tmp_path / "run", PlainView(quiet=True))
    with pytest.raises(UserError, match=said):
        life.run(life.between())
    assert not (tmp_path / "run").exists()
    assert re.search(said, planning.lacks(recipe, tmp_path / "run"))


TINY = {"depth": 2, "hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2}
SOURCES = {"sources": [{"path": "{here}/questions.csv", "name": "books"}, {"path": "atlas"}]}
IMPOSSIBLE: list[tuple[str, dict[str, Any], str]] = [
    ("pretrain", {"pretrain": {"batch_ramp": {}}}, "batch_ramp .* accumulation is 1"),
    (
        "pretrain",
        {"model": {"hidden_size": 100, "num_attention_heads": None}},
        r"model\.hidden_size 100 is no multiple",
    ),
    ("pretrain", {"model": {"num_attention_heads": 3}}, "describes no network"),
    (
        "pretrain",
        {"pretrain": {"mix": {"weights": {"boks": 1, "*": 1}}}},
        "no source is called 'boks'.*'books'",
    ),
    ("pretrain", {"pretrain": {"mix": {"weights": {"atlas": 1}}}}, "source 'books' has no weight"),
    (
        "pretrain",
        {"pretrain": {"mix": {"schedule": [{"until": 1, "weights": {"books": 1}}]}}},
        "source 'atlas' has no weight",
    ),
    ("finetune", {"finetune": {"freeze": {"layers": 3}}}, r"freeze\.layers is 3, and the model has 2 blocks"),
    ("finetune", {"finetune": {"adapter": {"layers": ["qproj"]}}}, "'qproj' fits no layer"),
]
"""(verb, settings, what is said) of what the settings alone tell."""
IMPOSSIBLE_HERE: list[tuple[str, dict[str, Any], str]] = [
    ("pretrain", {"pretrain": {"compute": {"device": "cuda"}}}, "finds no GPU here"),
    ("pretrain", {"pretrain": {"compute": {"fp8": True}}}, r"compute\.fp8 needs an NVIDIA GPU"),
    ("finetune", {"finetune": {"compute": {"device": "cuda"}}}, "finds no GPU here"),
    ("align", {"align": {"compute": {"device": "cuda"}}}, "finds no GPU here"),
    ("evaluate", {"evaluate": {"device": "cuda"}}, "finds no GPU here"),
    (
        "synthesize",
        {"synthesize": {"writer": {"model": "{here}/teacher", "licence": "MIT", "device": "cuda"}}},
        "finds no GPU here",
    ),
    ("pretrain", {"pretrain": {"compute": {"tensor_parallel": 1}}}, ""),
]
"""The same of this machine, which has no GPU."""


def lived(tmp_path: Path, verb: str, settings: dict[str, Any]) -> Recipe:
    """A recipe that reads a table, and whose last station is `verb`."""
    (tmp_path / "questions.csv").write_text(ROWS)
    model = tmp_path / "teacher"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"")
    stages = tuple(dict.fromkeys(("prepare", "tokenize", "pretrain", verb)))
    known = {"name": "test", "stages": stages, "data": SOURCES, "model": TINY}
    return Recipe(**filled(merge(known, settings), tmp_path))


def refused(recipe: Recipe, folder: Path) -> str:
    """What a life says before its first station works; it must leave nothing."""
    with pytest.raises(UserError) as error:
        Life(recipe, folder, PlainView(quiet=True)).run(recipe.stages)
    assert not folder.exists()
    return str(error.value)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize(("verb", "settings", "said"), IMPOSSIBLE)
def test_what_cannot_be_is_said_before_any_work(
    tmp_path: Path, verb: str, settings: dict[str, Any], said: str
) -> None:
    recipe = lived(tmp_path, verb, settings)
    assert re.search(said, refused(recipe, tmp_path / "run"))
    assert re.search(said, planning.lacks(recipe, tmp_path / "run", here=False))


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(("verb", "settings", "said"), IMPOSSIBLE_HERE)
def test_what_this_machine_cannot_do_is_said_before_any_work_and_of_this_machine_alone(
    tmp_path: Path, verb: str, settings: dict[str, Any], said: str
) -> None:
    recipe = lived(tmp_path, verb, settings)
    assert planning.lacks(recipe, tmp_path / "run", here=False) == ""
    found = planning.lacks(recipe, tmp_path / "run")
    assert bool(found) == bool(said) and re.search(said, found)
    if said:
        assert refused(recipe, tmp_path / "run") == found


PROCESSES: list[tuple[str, dict[str, Any], int, str]] = [
    ("pretrain", {"tensor_parallel": 2}, 1, "does not divide the 1 process:"),
    ("pretrain", {"tensor_parallel": 4}, 4, "does not divide num_attention_heads"),
    ("pretrain", {"tensor_parallel": 2}, 3, "does not divide the 3 processes:"),
    ("pretrain", {"tensor_parallel": 2}, 4, ""),
    ("pretrain", {"shard_size": 3}, 4, "in groups of 3"),
    ("pretrain", {"shard_size": 3}, 1, ""),
    ("align", {"shard_size": 3}, 4, "in groups of 3"),
    ("finetune", {"shard_size": 3}, 4, r"compute\.shard_size: 3 cuts weights"),
    ("finetune", {"shard": "none"}, 4, ""),
]


@pytest.mark.parametrize(("verb", "compute", "count", "said"), PROCESSES)
def test_processes_that_cannot_hold_the_model_are_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, compute: dict[str, Any], count: int, said: str
) -> None:
    """A finetune here trains an adapter, of which each process has a copy."""
    adapter = {"adapter": {"rank": 2}} if verb == "finetune" else {}
    recipe = lived(tmp_path, verb, {verb: {"compute": compute, **adapter}})
    several = {"MASTER_ADDR": "localhost", "RANK": "0", "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    for name, value in several.items():
        monkeypatch.setenv(name, str(value))
    found = planning.lacks(recipe, tmp_path / "run")
    assert bool(found) == bool(said) and re.search(said, found)


@pytest.mark.parametrize("asked", ["teacher", "forgetting"])
def test_what_needs_one_process_is_refused_in_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    settings = {"teacher": {"model": "{here}/teacher", "licence": "MIT"}, "forgetting": {}}
    recipe = lived(tmp_path, "finetune", {"finetune": {asked: settings[asked]}})
    assert planning.lacks(recipe, tmp_path / "run") == ""
    for name, value in {"MASTER_ADDR": "localhost", "RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert "one process" in planning.lacks(recipe, tmp_path / "run")
    life = Life(lived_again(recipe), tmp_path / "run", PlainView(quiet=True))
    life.searches = True
    with pytest.raises(UserError, match="--search runs in one process"):
        life.run(recipe.stages)


def lived_again(recipe: Recipe) -> Recipe:
    """The same with nothing but the defaults in its last section."""
    return recipe.model_copy(update={recipe.stages[-1]: {}})


@pytest.mark.usefixtures("no_gpu")
def test_what_is_finished_is_asked_again_only_where_it_is_made_again(tmp_path: Path) -> None:
    recipe = lived(tmp_path, "pretrain", {"pretrain": {"compute": {"device": "cuda"}}})
    configs = {verb: stage_config(recipe, verb) for verb in recipe.stages}
    folder = tmp_path / "run"
    for verb, config in configs.items():
        (folder / verb).mkdir(parents=True)
        write_json(folder / verb / MANIFEST, {"config": config.model_dump(mode="json")})
    assert planning.lacks(recipe, folder) == "", "as made on a machine with a GPU"
    assert "no GPU" in planning.lacks(recipe.model_copy(update={"data": {"sources": ["atlas"]}}), folder)
    changed = merge(recipe.pretrain, {"context": 64})
    assert "no GPU" in planning.lacks(recipe.model_copy(update={"pretrain": changed}), folder)
    (folder / "pretrain" / MANIFEST).write_text("{")
    assert "no GPU" in planning.lacks(recipe, folder)


def test_rows_longer_than_the_model_will_say_it_reads_are_refused(tmp_path: Path) -> None:
    recipe = lived(tmp_path, "pretrain", {"model": {"max_position_embeddings": 128}})
    for context, refused in ((128, False), (129, True)):
        changed = recipe.model_copy(update={"pretrain": merge(recipe.pretrain, {"context": context})})
        said = planning.lacks(changed, tmp_path / "run")
        assert ("model.max_position_embeddings 128" in said) == refused, said


def test_a_mix_of_a_corpus_that_is_given_is_left_to_its_turn(tmp_path: Path) -> None:
    recipe = lived(tmp_path, "pretrain", {"pretrain": {"mix": {"weights": {"theirs": 1}}}})
    assert "no weight" in planning.lacks(recipe, tmp_path / "run")
    assert planning.lacks(recipe, tmp_path / "run", in_line=False) == ""


@pytest.mark.parametrize(
    ("path", "waits"),
    [("", True), ("synthesize/examples.jsonl", True), ("evaluate/x.jsonl", False), ("../rows.jsonl", False)],
)
def test_what_reads_from_a_station_before_it_waits(tmp_path: Path, path: str, waits: bool) -> None:
    recipe = Recipe(
        name="test",
        stages=("synthesize", "evaluate"),
        evaluate={"questions": [{"path": str(tmp_path / path), "name": "own"}]},
    )
    configs = {verb: stage_config(recipe, verb) for verb in recipe.stages}
    assert waiting(configs, tmp_path) == ({"evaluate"} if waits else set())
