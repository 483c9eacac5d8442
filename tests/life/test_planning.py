"""What a training station will need is said before it runs, and held against what it took."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.life.tiny import command

from modelwright.base.artifact import Artifact
from modelwright.base.errors import UserError
from modelwright.cli import main
from modelwright.data.readers.faults import Faults
from modelwright.life import planning
from modelwright.planning.forecast import Forecast
from modelwright.recipes.recipe import load_recipe
from modelwright.stages import finetune
from modelwright.stages import forecast as stage
from modelwright.stages.forecast_rows import mean_padded
from modelwright.tokenizer.bpe import BPETokenizer

SETTINGS = {"pretrain.tokens": 4000, "data.atlas_size_bytes": 100_000}


def plan(folder: Path) -> dict[str, Any]:
    """Station -> its forecast, as it is kept."""
    said = Forecast.model_validate(json.loads((folder / "plan.json").read_text()))
    return {station.station: station for station in said.stations}


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    assert main([*command(folder, SETTINGS), "--until", "pretrain"]) == 0
    return folder


def test_the_forecast_is_there_before_the_station_runs(lived: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A station that fails at its first word has left one all the same."""

    def fails(*args: object) -> None:
        raise UserError("no")

    monkeypatch.setattr("modelwright.stages.finetune.run", fails)
    said = plan(lived)
    changed = command(
        lived, {"pretrain.tokens": 4000, "data.atlas_size_bytes": 100_000, "finetune.epochs": 2}
    )
    assert main([*changed, "--until", "finetune"]) == 1
    anew = plan(lived)
    assert anew["pretrain"] == said["pretrain"], "what was said of a station before it ran stays"
    assert anew["finetune"].steps > said["finetune"].steps
    assert "forecast: " in (lived / "finetune" / "log.txt").read_text()


def test_log_and_command_hold_the_run_against_its_forecast(
    lived: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = (lived / "pretrain" / "log.txt").read_text().splitlines()
    assert any("forecast: " in line for line in log[:2])  # the machine may have been measured before it
    line = planning.outcome(load_recipe(str(lived), environment={}), lived, "pretrain")
    assert line.startswith("took ") and ", forecast " in line
    assert planning.outcome(load_recipe(str(lived), environment={}), lived, "tokenize") == ""
    assert main(["plan", str(lived), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["forecast_before_the_run"] is True
    row = next(row for row in said["stations"] if row["station"] == "pretrain")
    assert row["forecast_seconds"] == plan(lived)["pretrain"].seconds
    assert row["seconds"] == Artifact.load(lived / "pretrain").manifest.cost.seconds


def test_a_forecast_that_cannot_be_made_is_a_line_of_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **how: object) -> None:
        raise ValueError("no such machine")

    monkeypatch.setattr(stage, "plan", broken)
    said: list[str] = []
    recipe = load_recipe("tiny", environment={})
    run: Any = SimpleNamespace(
        stage="pretrain",
        config=planning.stage_config(recipe, "pretrain"),
        inputs={},
        log=said.append,
        keeps=True,
    )
    planning.foretell(recipe, tmp_path, run)
    assert said == ["no forecast: ValueError: no such machine"]
    (tmp_path / "plan.json").write_text("torn")
    assert planning.outcome(recipe, tmp_path, "pretrain").startswith("no comparison with the forecast: ")


def test_steps_of_grouped_conversations_are_foretold(tiny_tokenizer: Path) -> None:
    config = finetune.Config(batching="grouped", conversations=203, rows=8, epochs=3, context=1024)
    laid = config.lay_out("train", BPETokenizer.load(tiny_tokenizer), 1, Faults())
    assert len(laid.batches.kept) == 203
    training, work = stage._tuning(config)
    assert abs(work.steps - len(laid.batches)) <= config.epochs, "in each epoch one may have fewer rows"
    assert 0 < work.share < 0.5 and not training.batch.masked, "padded to the longest of few, not to all"


@pytest.mark.parametrize(("share", "mean"), [(1.0, 64), (0.5, 48), (0.25, 48), (1e-9, 48)])
def test_rows_of_like_length_share_a_batch_and_its_padding(share: float, mean: float) -> None:
    assert mean_padded([10, 20, 40, 40], share) == mean
