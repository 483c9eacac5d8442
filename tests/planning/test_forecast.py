"""A recipe's forecast, and what came of it beside it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelwright.base.artifact import Cost
from modelwright.base.errors import ConfigError, UserError
from modelwright.cli import main
from modelwright.life import planning
from modelwright.life.loading import stage_config
from modelwright.planning.forecast import Forecast, StationForecast, compare
from modelwright.planning.shape import Shape
from modelwright.recipes.recipe import load_recipe
from modelwright.stages.forecast import ATLAS_DOCUMENT

OVERRIDES = [
    "pretrain.compute.dtype=bfloat16",
    "finetune.compute.dtype=bfloat16",
    "align.compute.dtype=bfloat16",
]


def forecast(*overrides: str, on: str = "l4") -> Forecast:
    return planning.forecast(load_recipe("tiny", [*OVERRIDES, *overrides], environment={}), on=on)


def test_every_station_has_a_forecast() -> None:
    found = forecast()
    recipe = load_recipe("tiny", environment={})
    assert [station.station for station in found.stations] == list(recipe.stages)
    assert all(station.seconds > 0 and station.peak_memory > 0 for station in found.stations)
    trained = {station.station: station for station in found.stations if station.steps}
    assert trained["pretrain"].steps == 40_000 // (8 * 64)
    assert sum(trained["pretrain"].memory.values()) == pytest.approx(trained["pretrain"].peak_memory)
    assert set(trained) == {"pretrain", "finetune", "align"} and found.money > 0


def test_devices_that_wait_are_paid_for() -> None:
    recipe = load_recipe("tiny", OVERRIDES, environment={})
    one, eight = (planning.forecast(recipe, on="h100", devices=devices) for devices in (1, 8))
    assert eight.stations[0].seconds == one.stations[0].seconds, "prepare runs on one"
    assert eight.stations[0].money == pytest.approx(8 * one.stations[0].money)
    hour = one.stations[0].money / one.stations[0].seconds * 3600
    assert eight.money == pytest.approx(8 * hour * sum(each.seconds for each in eight.stations) / 3600)
    assert eight.stations[0].energy_wh == pytest.approx(8 * one.stations[0].energy_wh)


def test_a_longer_training_takes_longer_and_a_wider_one_more() -> None:
    base, longer, wider = forecast(), forecast("pretrain.tokens=80000"), forecast("model.hidden_size=256")
    seconds = [found.stations[2].seconds for found in (base, longer, wider)]
    assert seconds[1] > seconds[0] and seconds[2] > seconds[0]
    assert wider.stations[2].peak_memory > base.stations[2].peak_memory


def test_flops_are_those_that_the_data_asks_for(tmp_path: Path) -> None:
    """Short documents do not see one another, and conversations learn a part of their tokens."""
    (tmp_path / "novel.txt").write_text("It was. " * 1000)
    settings = ["pretrain.context=512", "finetune.context=512", f"data.sources=[{tmp_path / 'novel.txt'}]"]
    short, long = forecast(*settings[:2]), forecast(*settings)
    per_token = [found.stations[2].flops / found.stations[2].tokens for found in (short, long)]
    config: Any = stage_config(load_recipe("tiny", environment={}), "pretrain")
    shape = Shape.of(config.model.derive(1024))
    less = 3 * 4 * shape.layers * shape.q_size * (512 - ATLAS_DOCUMENT)
    assert per_token[1] - per_token[0] == pytest.approx(less)
    tuned = short.stations[3]
    assert tuned.station == "finetune" and tuned.flops / tuned.tokens < per_token[0]


def test_what_does_not_fit_comes_with_what_would() -> None:
    found = forecast("model.depth=24", "model.hidden_size=2048", "pretrain.rows=64", "pretrain.context=2048")
    pretrain = found.stations[2]
    assert not pretrain.fits and pretrain.remedies
    assert pretrain.remedies[-1]["bytes"] < pretrain.peak_memory


def test_several_devices_are_placed_as_the_recipe_or_the_command_says() -> None:
    recipe = load_recipe("tiny", [*OVERRIDES, "pretrain.compute.shard=none"], environment={})

    def stations(**how: Any) -> dict[str, StationForecast]:
        found = planning.forecast(recipe, on="h100", **how)
        return {station.station: station for station in found.stations if station.steps}

    alone, own, fsdp = stations(), stations(devices=16), stations(devices=16, shard="fsdp")
    assert {each.devices for each in alone.values()} == {""} and not alone["pretrain"].sent
    assert own["pretrain"].devices == "16 replicas" and own["finetune"].devices == "2 replicas x 8 shards"
    assert {each.devices for each in fsdp.values()} == {"16 shards"}
    assert [each.memory["weights"] for each in (own["pretrain"], fsdp["pretrain"])] == pytest.approx(
        [alone["pretrain"].memory["weights"], alone["pretrain"].memory["weights"] / 16], rel=0.02
    )
    assert own["pretrain"].sent.keys() == {"replicas"}
    assert any("compute for nothing" in note for note in own["pretrain"].notes)
    with pytest.raises(ConfigError, match="tensor-parallel ways"):
        stations(devices=14, tensor=7)
    with pytest.raises(ConfigError, match="--probe runs steps on one device"):
        stations(devices=2, probe=True)


def test_what_a_device_sends_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "tiny", "--on", "h100", "--devices", "4", "--shard", "hsdp"]) == 0
    said = capsys.readouterr().out
    assert "sent in a step" in said and "memory of a device" in said and "4 shards" in said


def test_a_training_without_a_model_is_refused() -> None:
    with pytest.raises(UserError, match="--input model"):
        forecast("stages=[finetune]")


def test_a_gguf_file_is_planned_when_it_is_imported(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    settings = [
        "import.model=model.gguf",
        "import.licence=MIT",
        "finetune.sources=[atlas]",
        "finetune.conversations=100",
        "stages=[import, finetune]",
    ]
    recipe = load_recipe("finetune-laptop", settings, environment={})
    with pytest.raises(UserError, match="Import it first, then add --input model=RUN/import"):
        planning.forecast(recipe)
    shutil.copytree(tiny_model("llama"), tmp_path / "import" / "model")
    made, before, _ = planning.forecast_of(recipe, tmp_path)
    assert not before and made.stations[1].parameters
    assert planning.forecast(recipe, model=tmp_path / "import").stations == made.stations


def test_what_nobody_looked_at_neither_fits_nor_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    """Beside a GPU, stations that do not train run in the host's memory."""
    found = forecast(on="l4")
    assert {station.fits for station in found.stations if not station.steps} == {None, True}
    assert main(["plan", "tiny", "--on", "l4"]) == 0
    said = capsys.readouterr()
    (line,) = [line for line in said.out.splitlines() if line.startswith("export")]
    assert not line.rstrip().endswith(("yes", "no")) and not said.err


def test_a_forecast_notes_what_a_run_would_lack_and_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "tiny", "--set", "evaluate.suites=[aritmetic]"]) == 0
    said = capsys.readouterr()
    assert "would be refused now" in said.err and "Did you mean 'arithmetic'" in said.err
    assert "export" in said.out


def test_forecast_against_actual() -> None:
    found = forecast()
    costs = {
        s.station: Cost(seconds=2 * s.seconds, peak_memory_bytes=int(s.peak_memory)) for s in found.stations
    }
    del costs["export"]
    rows = compare(found, costs)
    assert [row.station for row in rows] == [s.station for s in found.stations[:-1]]
    assert all(row.seconds_ratio == pytest.approx(0.5) for row in rows)
    assert all(row.memory_ratio == pytest.approx(1, abs=1e-6) and not row.inherited for row in rows)
    whole = {name: cost.model_copy(update={"peak_memory_bytes": 2**30}) for name, cost in costs.items()}
    inherited = [row.inherited for row in compare(found, whole)]  # where a system knows the process's alone
    assert inherited == [False] + [True] * (len(rows) - 1)


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    overrides = [part for each in OVERRIDES for part in ("--set", each)]
    assert main(["plan", "tiny", "--on", "h100", "--json", "--out", str(tmp_path), *overrides]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["machine"] == "h100" and len(said["stations"]) == 9
    assert Forecast.model_validate(json.loads((tmp_path / "plan.json").read_text())).machine == "h100"
    assert main(["plan", "--model", "7B", "--on", "4090"]) == 0
    assert "QLoRA" in capsys.readouterr().out
    assert main(["plan", "--model", "8B", "--on", "h100", "--devices", "8", "--shard", "fsdp"]) == 0
    assert "gathered" in capsys.readouterr().out
    assert main(["plan", "--model", "8B", "--on", "h100", "--devices", "8"]) == 0
    assert "8 shards" in capsys.readouterr().out
    assert main(["plan", "--model", "llama-3.1-8b", "--on", "h100", "--devices", "6", "--tensor", "3"]) == 2
    assert "3 tensor-parallel ways: expected a number that divides 32 query heads" in capsys.readouterr().err
    assert main(["plan"]) == 2
    assert main(["plan", "--model", "7B", "--on", "h999"]) == 1
