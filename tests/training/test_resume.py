"""Killed at any moment and started again, training ends with the same bits.

The child process kills itself with SIGKILL at a chosen moment, so nothing gets the chance to tidy
up. The same folder then goes through one death after the other until a child survives.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests import children
from tests.training.tiny import make_model, make_run, make_windows

from modelwright.base.errors import UserError
from modelwright.base.metrics import MetricsFile
from modelwright.objectives.next_token import NextToken
from modelwright.training import checkpoint as checkpoint_module
from modelwright.training import loop
from modelwright.training.checkpoint import Checkpoints
from modelwright.training.guard import GuardConfig
from modelwright.training.loop import LoopConfig, train
from modelwright.training.optimizer import Optimizer, OptimizerConfig

STEPS = 12
CONFIG = LoopConfig(checkpoint_every=4, validate_every=3, accumulation=2, keep_checkpoints=2)


def train_tiny(folder: Path, steps: int = STEPS, config: LoopConfig = CONFIG) -> None:
    torch.set_num_threads(1)
    model = make_model()
    run = make_run(folder, config)

    def validate() -> dict[str, float]:
        return {"norm": float(sum(p.square().sum() for p in model.parameters()))}

    try:
        plan = config.plan(steps * config.accumulation)
        trained = train(model, NextToken(), make_windows(), plan, config, run, validate=validate)
    finally:
        run.close()
    averages = {
        f"{average}/{name}": tensor
        for average, tensors in trained.averages.items()
        for name, tensor in tensors.items()
    }
    save_file({**model.state_dict(), **averages}, folder / "end.safetensors")


def outcome(folder: Path) -> tuple[dict[str, torch.Tensor], str]:
    return load_file(folder / "end.safetensors"), (folder / "metrics.jsonl").read_text()


def assert_same(a: Path, b: Path) -> None:
    (weights, metrics), (other_weights, other_metrics) = outcome(a), outcome(b)
    assert metrics == other_metrics
    assert weights.keys() == other_weights.keys()
    assert all(torch.equal(weights[name], other_weights[name]) for name in weights)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def child(folder: str, moment: str) -> None:
    """Arm one death, then train."""
    kind, at = moment.split("@")
    calls = {"n": 0}

    def on_call(original, deadly):
        def wrapped(*args, **kwargs):
            calls["n"] += 1
            if calls["n"] == int(at):
                deadly(original, *args, **kwargs)
                die()
            return original(*args, **kwargs)

        return wrapped

    def half_a_file(original, tensors, path, *rest):
        original(tensors, path, *rest)
        Path(path).write_bytes(Path(path).read_bytes()[:100])

    def torn_line(original, self, step, values):
        self._file.write('{"step": 9, "lo')
        self._file.flush()

    if kind == "step":
        loop._accumulate = on_call(loop._accumulate, lambda *a, **k: None)
    if kind == "writing a checkpoint":
        checkpoint_module.save_file = on_call(checkpoint_module.save_file, half_a_file)
    if kind == "after a checkpoint":
        Checkpoints.save = on_call(Checkpoints.save, lambda original, *a: original(*a))
    if kind == "writing metrics":
        MetricsFile.write = on_call(MetricsFile.write, torn_line)
    train_tiny(Path(folder))


def start(folder: Path, moment: str) -> int:
    errors = folder.with_suffix(".errors")
    code = children.run(errors, child, str(folder), moment)
    assert code in (0, -signal.SIGKILL), errors.read_text()
    return code


def test_many_deaths_end_with_the_same_bits(tmp_path):
    train_tiny(tmp_path / "unbroken")
    moments = ["step@2", "writing a checkpoint@2", "step@6", "after a checkpoint@1", "writing metrics@3"]
    for moment in moments:
        assert start(tmp_path / "broken", moment) == -signal.SIGKILL, f"survived {moment}"
    assert start(tmp_path / "broken", "never@0") == 0
    assert_same(tmp_path / "unbroken", tmp_path / "broken")
    assert not list((tmp_path / "broken" / "checkpoints").glob(".tmp-*"))


def interrupt_at(monkeypatch, step: int) -> None:
    original, calls = loop._accumulate, {"n": 0}

    def wrapped(*args, **kwargs):
        calls["n"] += 1
        if calls["n"] > step:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(loop, "_accumulate", wrapped)


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, monkeypatch):
    train_tiny(tmp_path / "unbroken")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 10)
        with pytest.raises(KeyboardInterrupt):
            train_tiny(tmp_path / "broken")
    newest = Checkpoints(tmp_path / "broken" / "checkpoints", keep=9).all()[-1]
    assert newest.step == 8
    weights = newest.path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    train_tiny(tmp_path / "broken")
    assert "damaged checkpoint" in (tmp_path / "broken" / "log.txt").read_text()
    assert_same(tmp_path / "unbroken", tmp_path / "broken")


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    train_tiny(tmp_path / "unbroken")
    original, calls = checkpoint_module.save_file, {"n": 0}

    def full(tensors, path, *rest):
        calls["n"] += 1
        if calls["n"] == 5:
            raise OSError(28, "No space left on device")
        return original(tensors, path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module, "save_file", full)
        with pytest.raises(OSError, match="No space"):
            train_tiny(tmp_path / "broken")
    assert [c.step for c in Checkpoints(tmp_path / "broken" / "checkpoints", keep=9).all()] == [4]
    train_tiny(tmp_path / "broken")
    assert_same(tmp_path / "unbroken", tmp_path / "broken")


def test_a_finished_run_is_not_trained_again(tmp_path):
    train_tiny(tmp_path)
    before = outcome(tmp_path)[1]
    train_tiny(tmp_path)
    assert outcome(tmp_path)[1] == before
    assert len(before.splitlines()) == STEPS
    assert json.loads(before.splitlines()[-1])["step"] == STEPS


def test_a_state_of_another_model_is_refused(tmp_path):
    train_tiny(tmp_path, steps=4)
    checkpoint = Checkpoints(tmp_path / "checkpoints", keep=9).all()[-1]
    model = make_model(num_hidden_layers=1)
    optimizer = Optimizer(model.named_parameters(), OptimizerConfig())
    with pytest.raises(ValueError, match="other parameters"):
        optimizer.load_state(checkpoint.tensors("optimizer"))


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_a_state_from_before_the_first_update_is_taken_up(kind):
    """Every update before a checkpoint may have been withheld; and what was learned since is dropped."""
    model = make_model()
    fresh, stepped = (Optimizer(model.named_parameters(), OptimizerConfig(kind=kind)) for _ in range(2))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    stepped.step(1e-3)
    stepped.load_state(fresh.state())
    before, after = fresh.state(), stepped.state()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_what_is_left_of_a_checkpoint_that_was_being_removed_is_cleared_away(tmp_path):
    train_tiny(tmp_path, steps=4)
    folder = tmp_path / "checkpoints"
    left = folder / "step-00000002"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    found = Checkpoints(folder, keep=9).all()
    assert not left.exists() and [each.step for each in found] == [4]


def test_a_state_of_another_variant_of_muon_is_refused():
    model = make_model()
    plain = Optimizer(model.named_parameters(), OptimizerConfig())
    evened = Optimizer(model.named_parameters(), OptimizerConfig(even_neurons=True))
    for one, other in ((plain, evened), (evened, plain)):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        one.step(1e-3)
        with pytest.raises(ValueError, match="set even_neurons as it was"):
            other.load_state(one.state())


def test_divergence_says_what_to_do_and_keeps_the_checkpoints(tmp_path, monkeypatch):
    original, calls = loop._read, {"n": 0}

    def explode(*args):
        calls["n"] += 1
        values, norms = original(*args)
        return (values | {"loss": float("nan")} if calls["n"] >= 6 else values), norms

    monkeypatch.setattr(loop, "_read", explode)
    with pytest.raises(UserError, match=r"diverged at step 8.*lower the learning rate"):
        train_tiny(tmp_path, config=CONFIG.model_copy(update={"guard": GuardConfig(max_rollbacks=0)}))
    assert [c.step for c in Checkpoints(tmp_path / "checkpoints", keep=9).all()] == [4]
