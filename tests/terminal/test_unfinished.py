"""`show` of a stage that has begun and not ended: since when, how far it came, how it goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelwright.base.artifact import BEGAN, STARTED
from modelwright.base.config import Config
from modelwright.base.errors import UserError
from modelwright.base.files import write_json, write_text
from modelwright.base.run import Run
from modelwright.recipes.recipe import RECIPE_FILE, Recipe
from modelwright.terminal import lineage, manifests
from modelwright.terminal.unfinished import look_at

BEGINNING = "2026-01-02T03:04:05+00:00"


class Nothing(Config):
    """No settings."""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory with a finished station, and a training that was killed at its 25th step."""
    folder = tmp_path / "my run"
    Run(folder / "tokenize", "tokenize", "tokens", Nothing(), 1).finish([])
    training = Run(folder / "pretrain", "pretrain", "base", Nothing(), 1)
    write_json(training.dir / STARTED, {"fingerprint": "f", "sources": "", BEGAN: BEGINNING})
    for step in range(1, 26):
        training.metric(step, loss=1.0)
    for step in (10, 20):
        checkpoint = training.dir / "checkpoints" / f"step-{step:08d}"
        checkpoint.mkdir(parents=True)
        write_json(checkpoint / "state.json", {})
    (training.dir / "checkpoints" / "step-00000025").mkdir()  # it was being written
    training.log("step 25 \x1b[31m")
    training.close()
    write_text(folder / RECIPE_FILE, Recipe(name="test").to_yaml())
    return folder


def shown(path: Path, capsys: pytest.CaptureFixture[str], *, as_json: bool = False) -> str:
    manifests.show_manifests(path, as_json=as_json)
    return capsys.readouterr().out


def test_a_stage_says_since_when_how_far_and_how_it_goes_on(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = shown(run / "pretrain", capsys)
    assert "pretrain has begun and not ended" in said and "no run" not in said
    assert "began: 2026-01-02 03:04:05 UTC" in said
    assert "reached: step 25; it would go on from the checkpoint of step 20" in said
    assert "log ends" in said and "\\x1b[31m" in said and "\x1b" not in said
    assert f"resume: modelwright run '{run}', or this stage alone: modelwright pretrain '{run}'" in said


def test_a_run_has_it_behind_what_is_finished(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = shown(run, capsys)
    assert said.index("made by: tokenize") < said.index("pretrain has begun and not ended")
    (run / "tokenize" / "manifest.json").unlink()
    assert "pretrain has begun and not ended" in shown(run, capsys), "with nothing finished, too"


def test_it_is_there_as_data(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = json.loads(shown(run / "pretrain", capsys, as_json=True))
    assert (one["finished"], one["began"], one["step"], one["checkpoint"]) == (False, BEGINNING, 25, 20)
    assert one["resume"][0] == f"modelwright run '{run}'"
    finished, begun = json.loads(shown(run, capsys, as_json=True))
    assert finished["stage"] == "tokenize" and begun == one


def test_a_stage_that_does_not_train_and_is_in_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "prepare"
    folder.mkdir()
    write_json(folder / STARTED, {})  # as before the time was written
    said = shown(folder, capsys)
    assert "reached" not in said and "log ends" not in said and " s ago" in said
    assert "resume: with the command that began it" in said


def test_what_is_garbled_is_passed_over(run: Path) -> None:
    folder = run / "pretrain"
    (folder / STARTED).write_text('{"began": "yester')
    (folder / "metrics.jsonl").write_text("[]\nnothing\n")
    (folder / "log.txt").write_bytes(b"\xff\n\n")
    (folder / "checkpoints" / "step-x").mkdir()
    (folder / "checkpoints" / "step-x" / "state.json").write_text("{}")
    found = look_at(folder)
    assert (found.step, found.checkpoint, found.log) == (0, 20, "\ufffd")


def test_other_commands_say_what_it_is(run: Path) -> None:
    with pytest.raises(UserError, match=r"begun and not ended.*modelwright show"):
        lineage.show_ancestry(run / "pretrain")
