"""The ladder: planned within its budget, forecast before it is checked, resumed without a difference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modelwright.base.artifact import Artifact
from modelwright.base.errors import ConfigError, UserError
from modelwright.base.run import Run
from modelwright.evaluation.loglog import Series, loglog_chart
from modelwright.model.config import ModelChoice
from modelwright.model.flops import training_flops_per_token
from modelwright.planning.scaling_intervals import Interval
from modelwright.stages import pretrain, scale, scale_ladder
from modelwright.stages.scale_findings import Measured, Verdict
from modelwright.stages.scale_ladder import Budget, Rung, first_level, plan_cells

SETTINGS: dict[str, Any] = {
    "rungs": ["1x64", "2x64", "1x128", "2x128"],
    "budget": "1.2e10",
    "levels": 3,
    "factor": 1.5,
    "replicates": 50,
    "pretrain": {
        "context": 8, "rows": 8, "validation_tokens": 200,
        "compute": {"device": "cpu", "dtype": "float32", "compile": "never"},
    },
}  # fmt: skip


def test_a_ladder_is_climbed_killed_and_climbed_on(
    tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in its fourth cell; what was done is not done again, and the end is the same to the byte."""
    original, calls = pretrain.run, []

    def counted(config: Any, run: Run) -> Artifact:
        calls.append(run.dir.name.partition("-pretrain")[0])
        if len(calls) == 4:
            raise KeyboardInterrupt
        if calls[-1].startswith("2x128"):
            written = json.loads((tmp_path / "scale" / "forecast.json").read_text())
            assert written["low"] < written["high"], "the forecast is on disk before the rung is run"
        return original(config, run)

    chosen = scale.check(SETTINGS)
    monkeypatch.setattr(scale_ladder, "MIN_STEPS", 5)
    monkeypatch.setattr(pretrain, "run", counted)
    with pytest.raises(KeyboardInterrupt):
        scale.scale(tmp_path / "scale", tokens, chosen, 0)
    made = scale.scale(tmp_path / "scale", tokens, chosen, 0)
    assert calls[:3] == ["1x64-level0", "2x64-level0", "1x128-level0"]
    assert calls[3:5] == ["1x64-level1"] * 2 and calls[-1] == "2x128-level3" and len(calls) == 11
    found = json.loads((made.path / "scale.json").read_text())
    check_figures(found, made)
    calls[:] = [""] * 5
    scale.scale(tmp_path / "scale", tokens, chosen, 0)
    assert len(calls) == 5, "a finished ladder trains nothing"
    assert json.loads((made.path / "scale.json").read_text()) == found


def check_figures(found: dict[str, Any], made: Artifact) -> None:
    assert len(found["runs"]) == 9 and found["verdict"]["run"]["rung"] == "2x128"
    spent = sum(run["flops"] for run in (*found["runs"], found["verdict"]["run"]))
    assert 0.8 * 1.2e10 < spent <= 1.2e10 and made.manifest.cost.flops == spent
    assert len({run["bits_per_byte"] for run in found["runs"]}) == 9
    for run in found["runs"]:
        assert run["nats_per_token"] == pytest.approx(
            run["bits_per_byte"] * 0.6931471805599453 * run["bytes_per_token"]
        )
    verdict = found["verdict"]
    low, high = verdict["forecast"]["low"], verdict["forecast"]["high"]
    assert verdict["inside"] == (low <= verdict["run"]["nats_per_token"] <= high) == made.metrics["inside"]
    page = (made.path / "scale.html").read_text()
    assert page.count('<svg class="plot"') == 2 and "<script" not in page
    assert ("The forecast held." in page) == verdict["inside"]


def test_runs_of_one_level_cost_the_same_and_all_cost_the_budget() -> None:
    rungs = [Rung(1, 64), Rung(2, 64), Rung(2, 128), Rung(3, 128)]
    shapes = {rung: rung.choice(ModelChoice()).derive(512) for rung in rungs}
    first = first_level(Budget(1e13, False), rungs, 3, 2.0, 2, {})
    cells = plan_cells(rungs, shapes, first, 3, 2.0, 2, context=64, step_tokens=256)
    assert len(cells) == 3 * 3 * 2 + 1 and [c.held_out for c in cells] == [False] * 18 + [True]
    assert cells[-1].rung == rungs[-1] and cells[-1].level == 3
    costs = [cell.tokens * training_flops_per_token(shapes[cell.rung], 64) for cell in cells]
    assert 0.97e13 < sum(costs) <= 1e13
    assert all(0.95 < cost / cell.flops <= 1 for cost, cell in zip(costs, cells, strict=True))
    rates = {rung: 1e12 * (place + 1) for place, rung in enumerate(rungs)}
    timed = first_level(Budget(100.0, True), rungs, 3, 2.0, 2, rates)
    cells = plan_cells(rungs, shapes, timed, 3, 2.0, 2, context=64, step_tokens=256)
    assert sum(cell.flops / rates[cell.rung] for cell in cells) == pytest.approx(85.0)


def test_a_budget_in_time_measures_each_size_once(tokens: Path, tmp_path: Path) -> None:
    chosen = scale.check({**SETTINGS, "budget": "20s"})
    source = {"tokens": Artifact.load(tokens)}
    rung = Rung(1, 64)
    run = Run(tmp_path, "scale", "scale", chosen, 0, source)
    rate = scale.probe(chosen, run, rung, None)
    assert rate > 0 and scale.probe(chosen, run, rung, None) == rate
    run.close()


def test_mistakes_are_found_before_any_work() -> None:
    for text in ("3by64", "0x64", "2x100", ""):
        with pytest.raises(ConfigError, match="layers x width, such as 3x128"):
            scale.check({**SETTINGS, "rungs": [text, "2x64", "3x64", "4x64"]})
    for text in ("much", "-5", "0", "5 parsecs", "1.2.3"):
        with pytest.raises(ConfigError, match="2e14 or 15min"):
            scale.check({**SETTINGS, "budget": text})
    with pytest.raises(ConfigError, match=r"3 sizes were given.*at least 3 to fit") as found:
        scale.check({**SETTINGS, "rungs": ["1x64", "2x64", "3x64"]})
    assert "the ladder is not valid:\n  rungs" in str(found.value), "and not all settings, as Python has them"
    assert "Config(" not in str(found.value)
    with pytest.raises(ConfigError, match="levels"):
        scale.check({**SETTINGS, "levels": 2})
    assert Budget.parse("15min") == Budget(900.0, True) and Budget.parse("2e14") == Budget(2e14, False)
    assert Budget.parse("1.5 h") == Budget(5400.0, True)


def test_what_cannot_be_planned_is_refused(tokens: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gives rung 1x64 \d+ steps at level 0.*raise --budget by a factor"):
        scale.scale(tmp_path / "a", tokens, scale.check({**SETTINGS, "budget": "1e9"}), 0)
    falling = [*reversed(SETTINGS["rungs"])]
    with pytest.raises(UserError, match="the smallest first"):
        scale.scale(tmp_path / "b", tokens, scale.check({**SETTINGS, "rungs": falling}), 0)


def measured(bits: float) -> Measured:
    return Measured(
        name="a", rung="4x64", level=3, parameters=10, tokens=10, flops=1.0, flops_per_token=0.1,
        bits_per_byte=bits, bytes_per_token=2.0,
    )  # fmt: skip


def test_a_verdict_goes_both_ways() -> None:
    nats = measured(1.0).nats
    held = Verdict(measured(1.0), Interval(nats, nats * 0.99, nats * 1.01))
    failed = Verdict(measured(1.1), held.forecast)
    assert held.inside and "INSIDE the 90% interval" in held.in_words(0.9) and "+0.00%" in held.in_words(0.9)
    assert not failed.inside and "OUTSIDE the 90% interval" in failed.in_words(0.9)
    assert "+10.00%" in failed.in_words(0.9)


def test_rungs_keep_what_the_recipe_says() -> None:
    base = ModelChoice(depth=9, hidden_size=512, intermediate_size=99, architecture="llama", rope_theta=5e5)
    shape = Rung(3, 128).choice(base).derive(300)
    assert (shape.num_hidden_layers, shape.hidden_size, shape.intermediate_size) == (3, 128, 384)
    assert shape.architecture == "llama" and shape.rope_theta == 5e5 and shape.num_attention_heads == 4
    tied, untied = ({**shape.model_dump(), "tie_word_embeddings": tie} for tie in (True, False))
    counts = [
        scale.parameters_of(type(shape).model_validate(settings), count)
        for settings in (tied, untied)
        for count in ("total", "non_embedding")
    ]
    assert counts[1] == counts[3] == counts[0] - 300 * 128 == counts[2] - 2 * 300 * 128


def test_charts_escape_and_place() -> None:
    drawn = loglog_chart(
        [Series(name="<a>", points=[(1e6, 2.0), (1e8, 3.0)], curve=[(1e6, 2.1)], whisker=(1e7, 2.2, 2.4))],
        "x", "y", "t",
    )  # fmt: skip
    assert "&lt;a&gt;" in drawn and drawn.count("whisker") == 3 and "polyline" in drawn and "nan" not in drawn
    assert loglog_chart([], "x", "y", "t") == ""
