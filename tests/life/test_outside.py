"""What is missing outside a run is said before its first station works, by the life and by the plan."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from modelwright.base.errors import UserError
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
