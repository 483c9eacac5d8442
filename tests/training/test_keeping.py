"""Early stopping and the best weights: decided by what is measured, the same after every death."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests import children
from tests.training.tiny import make_model, make_run, make_windows

from modelwright.base.metrics import read_metrics
from modelwright.objectives.next_token import NextToken
from modelwright.training import loop
from modelwright.training.averages import AveragesConfig
from modelwright.training.keeping import BEST, Keeping, StopEarlyConfig
from modelwright.training.loop import LoopConfig, Trained, train
from modelwright.training.spread import Spread

STEPS = 20
HELD_OUT = {2: 3.0, 4: 2.0, 6: 2.5, 8: 1.9, 10: 2.2, 12: 2.1, 14: 1.0, 16: 4.0, 18: 4.0, 20: 4.0}
"""Steps -> loss, as if it were measured: lowest after 14, and after 8 of what little patience sees."""
STOPPING = {"stop_early": StopEarlyConfig(patience=2), "keep": "best"}


def train_tiny(folder: Path, **settings: Any) -> Trained:
    """Every second step is measured; what is found depends on the step alone."""
    torch.set_num_threads(1)
    config = LoopConfig(validate_every=2, checkpoint_every=3, **settings)
    model, run = make_model(), make_run(folder, config)

    def validate() -> dict[str, float]:
        steps = [line["step"] for line in read_metrics(folder / "metrics.jsonl")]
        return {"validation_loss": HELD_OUT.get(min(max(steps, default=0) + 1, STEPS), 9.0), "other": 0.0}

    try:
        plan = config.plan(STEPS)
        trained = train(model, NextToken(), make_windows(), plan, config, run, validate=validate)
    finally:
        run.close()
    save_file(model.state_dict(), folder / "end.safetensors")
    (folder / "trained.json").write_text(json.dumps(trained.metrics, sort_keys=True))
    return trained


def weights_after(folder: Path, steps: int) -> dict[str, torch.Tensor]:
    """The weights of a training as long as the others that is looked at after so many steps."""
    config = LoopConfig(validate_every=STEPS, checkpoint_every=steps, keep_checkpoints=99)
    model, run = make_model(), make_run(folder, config)
    train(model, NextToken(), make_windows(), config.plan(STEPS), config, run, validate=dict)
    run.close()
    return load_file(folder / "checkpoints" / f"step-{steps:08d}" / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_patience_ends_the_training_and_the_best_weights_are_handed_on(tmp_path: Path) -> None:
    trained = train_tiny(tmp_path / "stopped", **STOPPING)
    assert trained.steps == 12
    assert trained.metrics["kept_step"] == 8 and trained.metrics["validation_loss"] == 1.9
    assert "lowest there: 1.9" in trained.metrics["kept_because"]
    assert "has not fallen below 1.9 in 2 measurements" in trained.metrics["stopped_early"]
    assert same(load_file(tmp_path / "stopped" / "end.safetensors"), weights_after(tmp_path / "whole", 8))
    lines = list(read_metrics(tmp_path / "stopped" / "metrics.jsonl"))
    assert [line["step"] for line in lines if "stopped_early" in line] == [12] == [lines[-1]["step"]]
    log = (tmp_path / "stopped" / "log.txt").read_text()
    assert "step 12: training ends early" in log and "weights after step 8 of 12 are kept" in log
    assert [each.name for each in (tmp_path / "stopped" / BEST / "checkpoints").iterdir()] == [
        "step-00000008"
    ]


def test_averages_of_a_training_that_ended_early_hold_its_last_weights(tmp_path: Path) -> None:
    """20 steps are planned, and the weights of every eighth from the end count: of 4, and of 12, the last."""
    averages = AveragesConfig(half_lives=(), tails=(1.0, 0.3), every=8)
    config: dict[str, Any] = {"stop_early": StopEarlyConfig(patience=2), "averages": averages}
    first = train_tiny(tmp_path / "run", **config)
    again = train_tiny(tmp_path / "run", **config)  # it is over: nothing is trained
    ends = load_file(tmp_path / "run" / "end.safetensors")
    earlier = weights_after(tmp_path / "whole", 4)
    for trained in (first, again):
        assert trained.steps == 12 and trained.averages.keys() == {"tail 1"}
        for name, mean in trained.averages["tail 1"].items():
            torch.testing.assert_close(mean, (earlier[name] + ends[name]) / 2)
    assert "before the average tail 0.3 was to begin" in (tmp_path / "run" / "log.txt").read_text()


def test_with_more_patience_it_finds_the_better_weights_that_came_later(tmp_path: Path) -> None:
    trained = train_tiny(tmp_path, stop_early=StopEarlyConfig(patience=3), keep="best")
    assert trained.steps == STEPS and trained.metrics["kept_step"] == 14
    assert "stopped_early" not in json.loads((tmp_path / "trained.json").read_text()), "it ended by itself"


def test_what_is_better_by_less_than_was_asked_does_not_count(tmp_path: Path) -> None:
    config = StopEarlyConfig(patience=2, at_least=0.2)
    trained = train_tiny(tmp_path, stop_early=config)
    assert trained.steps == 8, "2.5 and 1.9 are not 0.2 below 2.0"
    assert trained.metrics["kept_step"] == 8 and trained.metrics["kept_because"] == "they are the last"
    assert not (tmp_path / BEST).exists()


def test_the_usual_training_says_and_keeps_nothing_more(tmp_path: Path) -> None:
    trained = train_tiny(tmp_path)
    assert trained.steps == STEPS
    assert not {"kept_step", "kept_because", "stopped_early"} & trained.metrics.keys()


def test_a_measurement_that_is_no_number_is_never_the_best(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    keeping = Keeping(StopEarlyConfig(patience=2), "best", Spread(make_model()), run, 9)
    for step, value in enumerate((math.nan, 2.0, math.nan), 1):
        keeping.judge(step, {"loss": value})
    assert keeping.finish(3, {"loss": math.nan})["kept_step"] == 2
    run.close()


def test_its_state_survives_json(tmp_path: Path) -> None:
    run, stop = make_run(tmp_path), StopEarlyConfig(patience=2)
    for values in ((), (2.0,), (2.0, 3.0), (2.0, 3.0, 4.0)):
        one, other = (Keeping(stop, "last", Spread(make_model()), run, 9) for _ in range(2))
        for step, value in enumerate(values, 1):
            one.judge(step, {"loss": value})
        other.load_state(json.loads(json.dumps(one.state(), allow_nan=False)))
        assert other.state() == one.state() and other.stopped == one.stopped
    run.close()


def child(folder: str, dies_at: int) -> None:
    """Train, and die in the middle of step `dies_at`; at 0 never."""
    original, calls = loop._read, {"n": 0}

    def read(*args):
        calls["n"] += 1
        if calls["n"] == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args)

    loop._read = read
    train_tiny(Path(folder), **STOPPING)


def test_deaths_change_neither_where_it_stops_nor_what_is_kept(tmp_path: Path) -> None:
    """Death before any checkpoint, behind a best measurement that no checkpoint holds, and near the end."""
    train_tiny(tmp_path / "unbroken", **STOPPING)
    for dies_at, code in ((3, -signal.SIGKILL), (9, -signal.SIGKILL), (6, -signal.SIGKILL), (0, 0)):
        assert children.run(tmp_path / "errors", child, str(tmp_path / "broken"), dies_at) == code
    for name in ("metrics.jsonl", "trained.json"):
        assert (tmp_path / "broken" / name).read_text() == (tmp_path / "unbroken" / name).read_text(), name
    ends = [load_file(tmp_path / name / "end.safetensors") for name in ("broken", "unbroken")]
    assert same(*ends)


@pytest.mark.parametrize("again", [1, 2])
def test_a_training_that_was_stopped_is_not_gone_on_with(tmp_path: Path, again: int) -> None:
    trained = [train_tiny(tmp_path, **STOPPING) for _ in range(again + 1)][-1]
    assert trained.steps == 12 and trained.metrics["kept_step"] == 8
