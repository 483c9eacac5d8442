"""pretrain: what it derives and says, what it records, and the settings that change its loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelwright.base.metrics import read_metrics
from modelwright.base.progress import PlainView
from modelwright.life import Life
from modelwright.recipes.recipe import Recipe


def made_by(folder: Path, **settings: Any) -> dict[str, Any]:
    """A base model of 12 steps on a few lines; its manifest's metrics."""
    (folder / "text").mkdir(parents=True)
    for number in range(20):
        text = f"The owl number {number} met {number * 7} foxes in {number * 13} trees. "
        (folder / "text" / f"{number}.txt").write_text(text * (1 + number % 3))
    recipe = Recipe(
        name="x",
        stages=("prepare", "tokenize", "pretrain"),
        data={"sources": [{"path": str(folder / "text")}]},
        tokenizer={"vocab_size": 300},
        model={"depth": 1, "hidden_size": 32, "head_dim": 16, "max_position_embeddings": 64},
        pretrain={"tokens": 864, "context": 24, "rows": 3} | settings,
    )
    return Life(recipe, folder / "run", PlainView(quiet=True)).run(recipe.stages)[-1].metrics


def test_rates_are_derived_and_said_and_the_run_shows_what_is_usual(tmp_path: Path) -> None:
    metrics = made_by(tmp_path, z_loss=1e-3)
    log = (tmp_path / "run" / "pretrain" / "log.txt").read_text()
    assert "learning rate 0.024 (derived from width 32), of matrices 0.02 (derived from width 32)" in log
    assert "step 12: loss " in log and "validation bits/byte" in log
    assert metrics["updates_withheld"] == 0 and metrics["rollbacks"] == 0
    lines = list(read_metrics(tmp_path / "run" / "pretrain" / "metrics.jsonl"))
    assert max(line["learning_rate"] for line in lines) == pytest.approx(0.024)
    for line in lines:
        assert line["z_loss"] > 0
        assert line["loss"] == pytest.approx(line["next_token"] + line["z_loss"], rel=1e-4)
