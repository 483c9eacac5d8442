"""finetune --search: what is tried, within which time, and what may be said of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from modelwright.base.artifact import Artifact
from modelwright.base.config import Config
from modelwright.base.errors import UserError
from modelwright.base.run import Run
from modelwright.cli import main
from modelwright.evaluation.statistics import Scores
from modelwright.recipes.recipe import load_recipe
from modelwright.stages import finetune, search
from modelwright.stages.search_findings import BEST, SAME, WORSE, Findings, Trial
from modelwright.stages.search_page import render, table

SETTINGS: dict[str, Any] = {
    "conversations": 40,
    "validation_conversations": 60,
    "context": 128,
    "rows": 4,
    "compute": {"dtype": "float32", "compile": "never"},
}


@pytest.fixture
def base(tiny_model: Callable[..., Path], tmp_path: Path) -> Artifact:
    run = Run(tmp_path / "base", "pretrain", "base", Config(), 1)
    (run.dir / "model").symlink_to(tiny_model("qwen3"))
    return run.finish(["model"])


def look(folder: Path, base: Artifact, stage: Any = finetune, **settings: Any) -> Artifact:
    config = finetune.Config.model_validate(SETTINGS | {"search": settings})
    run = Run(folder, "search", "search", config, 5, {"model": base})
    try:
        return search.Searcher(stage).run(config, run)
    finally:
        run.close()


def spread(values: list[float]) -> Scores:
    return Scores(tuple(values), (1.0,) * len(values))


def test_the_best_is_chosen_and_what_cannot_be_told_from_it_is_said() -> None:
    noise = [0.01 * (-1) ** i for i in range(40)]
    best = spread([1.0 + 0.02 * (i % 5) for i in range(40)])
    near = spread([loss + n for loss, n in zip(best.losses, noise, strict=True)])
    far = spread([loss + 0.1 + n for loss, n in zip(best.losses, noise, strict=True)])
    trials = (
        Trial(3e-3, None, 2, far),
        Trial(1e-3, None, 2, best),
        Trial(
            1e-4,
            None,
            2,
            Scores(tuple(loss + 0.0001 * (i % 2) for i, loss in enumerate(near.losses)), near.sizes),
        ),
        Trial(1.0, None, 1, None, "the loss is not finite"),
    )
    found = Findings(trials, spread([2.0] * 40), ("0.5",))
    assert found.chosen.learning_rate == 1e-3
    assert {row.trial.learning_rate: row.verdict for row in found.rows} == {
        1e-3: BEST,
        1e-4: SAME,
        3e-3: WORSE,
    }
    said = "\n".join(found.sentences())
    assert "Not told apart from it on these conversations: 0.0001." in said
    assert "1 failed: the loss is not finite" in said and "Not tried, for want of time: 0.5." in said
    assert "rate that was tried" not in said, "the best stands between others"
    assert len(table(found)) == 4 and "<svg" in render(found) and "0.0001" in render(found)


def test_a_search_that_gains_nothing_or_ends_at_an_edge_says_so() -> None:
    same = spread([1.0 + 0.1 * (i % 3) for i in range(20)])
    trials = (Trial(1e-3, 16, 1, same), Trial(1e-4, 16, 1, spread([v + 0.5 for v in same.losses])))
    said = "\n".join(Findings(trials, same, ()).sentences())
    assert "not shown to be better than no training" in said
    assert "It is the highest rate that was tried" in said


def test_rates_are_tried_and_what_was_chosen_is_what_a_recipe_states(base: Artifact, tmp_path: Path) -> None:
    made = look(tmp_path / "search", base, learning_rates=[0.001, 1e-6], slice=24)
    found = json.loads((made.path / "search.json").read_text())
    assert {trial["learning_rate"] for trial in found["trials"]} == {0.001, 1e-6}
    assert found["trials"][0]["loss"]["mean"] < found["before"]
    chosen = made.metrics["chosen"]
    assert chosen["optimizer"]["learning_rate"] == found["trials"][0]["learning_rate"] == 0.001
    assert chosen["optimizer"]["matrix_learning_rate"] == pytest.approx(0.02 / 3)
    assert (made.path / "search.html").is_file()
    assert sorted(file.suffix for file in (made.path / "trials").iterdir()) == [".json", ".json"], (
        "no model stays"
    )


def test_an_interrupted_search_goes_on_and_finds_the_same(base: Artifact, tmp_path: Path) -> None:
    calls: list[float] = []

    def run(config: Any, run: Run) -> Artifact:
        calls.append(config.optimizer.learning_rate)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return finetune.run(config, run)

    stage = SimpleNamespace(run=run, sources=finetune.sources)
    settings = {"learning_rates": [0.001, 0.002], "slice": 24}
    with pytest.raises(KeyboardInterrupt):
        look(tmp_path / "one", base, stage, **settings)
    again = look(tmp_path / "one", base, stage, **settings)
    assert calls == [0.002, 0.001, 0.001], "what was finished is not made again"
    whole = look(tmp_path / "two", base, **settings)

    def losses(made: Artifact) -> list[float]:
        trials = json.loads((made.path / "search.json").read_text())["trials"]
        return [trial["loss"]["mean"] for trial in trials]

    assert losses(again) == losses(whole)


def test_time_is_a_hard_limit(base: Artifact, tmp_path: Path) -> None:
    steps: list[int] = []

    def endless(config: Any, run: Run) -> Artifact:
        while True:
            steps.append(len(steps))
            run.metric(len(steps), loss=1.0)

    stage = SimpleNamespace(run=endless, sources=finetune.sources)
    with pytest.raises(UserError, match=r"no trial came to an end in 0\.01 minutes: raise"):
        look(tmp_path / "search", base, stage, minutes=0.01)
    assert steps


def test_a_training_that_fails_costs_its_trial_and_not_the_search(base: Artifact, tmp_path: Path) -> None:
    def run(config: Any, run: Run) -> Artifact:
        if config.optimizer.learning_rate > 1:
            raise UserError("the loss is not finite")
        return finetune.run(config, run)

    stage = SimpleNamespace(run=run, sources=finetune.sources)
    made = look(tmp_path / "search", base, stage, learning_rates=[5.0, 0.001], slice=24)
    assert made.metrics["chosen"]["optimizer"]["learning_rate"] == 0.001
    assert "5 failed: the loss is not finite" in (made.path / "log.txt").read_text()


def test_the_command_searches_and_trains_what_it_found(
    base: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "mine.yaml"
    wanted = {"learning_rates": [0.002, 1e-6], "slice": 24}
    recipe.write_text(json.dumps({"stages": ["finetune"], "finetune": SETTINGS | {"search": wanted}}))
    folder = tmp_path / "run"
    command = ["finetune", str(recipe), "--out", str(folder), "--input", f"model={base.path}", "--search"]
    assert main(command) == 0
    searched, tuned = Artifact.load(folder / "search"), Artifact.load(folder / "finetune")
    assert tuned.manifest.config["optimizer"]["learning_rate"] == 0.002
    assert tuned.manifest.config["search"]["found"] == searched.id
    assert load_recipe(str(folder), environment={}).finetune["optimizer"]["learning_rate"] == 0.002
    capsys.readouterr()
    assert main(command) == 0
    assert capsys.readouterr().err.count("(unchanged: skipped)") == 2
    assert main(["run", str(folder), "--input", f"model={base.path}"]) == 0
    assert "(unchanged: skipped)" in capsys.readouterr().err, "the run directory remembers what was chosen"
