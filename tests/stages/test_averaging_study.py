"""The study of averages: paired by seed, resumed without training again, honest about what it shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modelwright.base.artifact import Artifact
from modelwright.base.errors import ConfigError
from modelwright.base.run import Run
from modelwright.stages import averaging_study, pretrain
from modelwright.stages.averaging_findings import Findings, Measured

SETTINGS: dict[str, Any] = {
    "seeds": 2,
    "horizons": [1280],
    "schedules": {"wsd": {"kind": "wsd"}, "constant": {"kind": "constant"}},
    "checkpoints": 2,
    "validation_tokens": 300,
    "averages": {"half_lives": [0.1], "tails": [0.5], "powers": [0.1], "snapshots": 3, "every": 1},
    "pretrain": {
        "model": {"depth": 1, "hidden_size": 32, "head_dim": 16, "max_position_embeddings": 64},
        "context": 8,
        "rows": 8,
        "validation_tokens": 100,
        "compute": {"device": "cpu", "dtype": "float32", "compile": "never"},
    },
}


def test_a_study_is_interrupted_and_goes_on(
    tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = pretrain.run, []

    def counted(config: Any, run: Run) -> Artifact:
        calls.append(run.dir.name.partition("-pretrain")[0])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(config, run)

    monkeypatch.setattr(pretrain, "run", counted)
    chosen = averaging_study.check(SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        averaging_study.study(tmp_path / "study", tokens, chosen, 0)
    made = averaging_study.study(tmp_path / "study", tokens, chosen, 0)
    assert calls == ["wsd-1280-0", "constant-1280-0", "wsd-1280-1", "wsd-1280-1", "constant-1280-1"]
    found = json.loads((made.path / "averaging.json").read_text())
    names = [arm["average"] for arm in found["arms"] if arm["schedule"] == "wsd"]
    assert names[:5] == ["last", "ema 0.1", "power 0.1", "tail 0.5", "uniform of last 2"]
    assert any("snapshots" in name for name in names)
    assert all(arm["value"]["n"] == 2 for arm in found["arms"])
    starts = {seed: {} for seed in (0, 1)}
    for path in sorted((tmp_path / "study" / "cells").glob("*-pretrain-*/metrics.jsonl")):
        name, _, seed = path.parent.name.partition("-pretrain")[0].split("-")
        starts[int(seed)][name] = json.loads(path.read_text().splitlines()[0])["loss"]
    assert starts[0]["wsd"] == starts[0]["constant"] != starts[1]["wsd"] == starts[1]["constant"]
    page = (made.path / "averaging.html").read_text()
    assert page.count('<svg class="plot"') == 2 and "<script" not in page
    assert all(sentence.split(":")[0] in page for sentence in found["sentences"])


def rows(**shifts: float) -> tuple[Measured, ...]:
    """Seeds differ by much more than what is compared within a seed."""
    return tuple(
        Measured(
            schedule, average, 100, seed, 2.0 + seed + shifts[f"{schedule}_{average}"] + 0.001 * (seed % 2)
        )
        for seed in range(5)
        for schedule in ("wsd", "constant")
        for average in ("last", "ema")
    )


def test_differences_are_taken_within_a_seed() -> None:
    values = rows(wsd_last=0.0, wsd_ema=0.01, constant_last=0.2, constant_ema=0.05)
    findings = Findings(values, "wsd", 0.95)
    arms = {(arm.schedule, arm.average): arm for arm in findings.arms}
    gained = arms["constant", "ema"].gained
    assert gained is not None and gained.mean == pytest.approx(-0.15) and gained.high < -0.14
    against = arms["constant", "ema"].against
    assert against is not None and against.low > 0.04
    assert arms["wsd", "last"].gained is None and arms["wsd", "last"].against is None
    assert arms["wsd", "last"].value.high - arms["wsd", "last"].value.low > 2, "seeds differ, and it shows"
    wsd, constant = findings.sentences()
    assert "no average is better" in wsd and "(better)" in constant and "(worse)" in constant


def test_a_reference_that_is_not_run_is_refused() -> None:
    with pytest.raises(ConfigError, match="none of"):
        averaging_study.check({**SETTINGS, "reference": "cosine"})
