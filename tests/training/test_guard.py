"""The guard: what is withheld, taken back and given up, and that a healthy run is left alone."""

from __future__ import annotations

import json
import math
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tests import children
from tests.training.tiny import make_model, make_run, make_windows, train_in
from torch import nn

from modelwright.base.errors import UserError
from modelwright.base.metrics import read_metrics
from modelwright.base.schema import IGNORE, Batch
from modelwright.objectives.next_token import NextToken
from modelwright.training import loop
from modelwright.training.checkpoint import Checkpoints
from modelwright.training.diagnose import first_nonfinite
from modelwright.training.guard import Action, Guard, GuardConfig
from modelwright.training.loop import LoopConfig, train
from modelwright.training.optimizer import OptimizerConfig
from modelwright.training.spread import Share, Spread
from modelwright.training.step_plan import BatchRampConfig, StepPlan

GUARD = GuardConfig(settled=4, window=16, patience=3)


def healthy(steps: int, seed: int = 0) -> list[dict[str, float]]:
    """Values as a training gives them: a falling loss, norms with a heavy tail."""
    random = np.random.default_rng(seed)
    return [
        {
            "loss": 2 + 6 * math.exp(-step / 40) + 0.1 * random.normal(),
            "grad_norm": float(np.exp(0.3 * random.normal())),
        }
        for step in range(steps)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_a_healthy_run_is_left_alone(seed: int) -> None:
    guard = Guard(GuardConfig())
    assert all(guard.judge(values).action is Action.APPLY for values in healthy(2000, seed))
    assert guard.rollbacks == 0


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
def test_a_spike_is_withheld_and_does_not_move_the_limit(name: str) -> None:
    guard = Guard(GuardConfig())
    for values in healthy(100):
        guard.judge(values)
    before = guard.limit(name)
    verdict = guard.judge({"loss": 2.5, "grad_norm": 1.0, name: 40.0})
    assert verdict.action is Action.SKIP and verdict.reason.startswith(f"{name} 40, usual")
    assert guard.limit(name) == before
    assert guard.judge({"loss": 2.5, "grad_norm": 1.0}).action is Action.APPLY
    assert guard.withheld == 0


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
def test_the_second_step_has_a_limit_and_it_comes_nearer_with_each(name: str) -> None:
    guard = Guard(GuardConfig())
    assert guard.limit(name) == math.inf
    limits: list[float] = []
    for _ in range(40):
        assert guard.judge({"loss": 8.0, "grad_norm": 2.0}).action is Action.APPLY
        limits.append(guard.limit(name))
    wide = {"loss": (5 * 8.0, 1.4 * 8.0), "grad_norm": (41 * 2.0, 5 * 2.0)}[name]
    assert wide[0] * 0.9 < limits[0] < wide[0] and limits[31:] == pytest.approx([wide[1]] * 9)
    assert limits[:32] == sorted(limits[:32], reverse=True)


@pytest.mark.parametrize("spikes", ["record", "ignore"])
def test_values_that_are_not_finite_are_never_applied(spikes: Any) -> None:
    guard = Guard(GuardConfig(spikes=spikes))
    for values in healthy(60):
        guard.judge(values)
    spike = guard.judge({"loss": 50.0, "grad_norm": 1.0})
    assert spike.action is Action.APPLY and bool(spike.reason) == (spikes == "record")
    assert guard.judge({"loss": math.nan, "grad_norm": 1.0}).action is Action.SKIP
    assert guard.judge({"loss": 1.0, "grad_norm": math.inf}).reason == "grad_norm not finite"


def test_after_several_in_a_row_back_and_at_last_an_end() -> None:
    guard = Guard(GuardConfig(patience=2, max_rollbacks=1))
    bad = {"loss": math.nan, "grad_norm": 1.0}
    assert [guard.judge(bad).action for _ in range(2)] == [Action.SKIP, Action.ROLL_BACK]
    guard.went_back()
    assert [guard.judge(bad).action for _ in range(2)] == [Action.SKIP, Action.GIVE_UP]


def test_the_dashboard_says_what_is_usual() -> None:
    guard = Guard(GuardConfig(settled=20, window=100))
    assert guard.dashboard({"loss": 3.14159, "grad_norm": 1200.5}) == {"loss": "3.142", "grad_norm": "1,200"}
    assert guard.usual("loss") is None
    for number in range(100):
        guard.judge({"loss": 2 + number / 100, "grad_norm": 1.0})
    assert guard.usual("loss") == pytest.approx((2.05, 2.94))
    shown = guard.dashboard({"loss": 2.5, "grad_norm": 9.0})
    assert shown == {"loss": "2.5 (usual 2.05-2.94)", "grad_norm": "9 (usual 1-1)"}
    assert guard.dashboard({"loss": math.nan, "grad_norm": 1.0})["loss"].startswith("nan (usual")


@given(
    st.lists(st.tuples(st.floats(), st.floats(min_value=0)), max_size=80),
    st.integers(min_value=0, max_value=80),
)
def test_a_guard_taken_up_again_decides_the_same(values: list[tuple[float, float]], cut: int) -> None:
    steps = [{"loss": loss, "grad_norm": norm} for loss, norm in values]

    def decide(guard: Guard, values: dict[str, float]) -> Action:
        verdict = guard.judge(values)
        if verdict.action is Action.ROLL_BACK:
            guard.went_back()
        return verdict.action

    whole = Guard(GUARD)
    expected = [decide(whole, each) for each in steps]
    first, second = Guard(GUARD), Guard(GUARD)
    found = [decide(first, each) for each in steps[:cut]]
    second.load_state(json.loads(json.dumps(first.state())))
    assert found + [decide(second, each) for each in steps[cut:]] == expected


@given(
    total=st.integers(1, 300),
    accumulation=st.integers(1, 9),
    start=st.floats(0.01, 1),
    fraction=st.floats(0, 1),
)
def test_a_plan_deals_every_micro_batch_once(
    total: int, accumulation: int, start: float, fraction: float
) -> None:
    plan = StepPlan(total, accumulation, BatchRampConfig(start=start, fraction=fraction))
    dealt = [index for step in range(plan.steps) for index in plan.of_step(step)]
    assert dealt == list(range(total))
    sizes = [len(plan.of_step(step)) for step in range(plan.steps)]
    assert sizes[:-1] == sorted(sizes[:-1]) and max(sizes) <= accumulation
    assert all(plan.step_of(index) == step for step in range(plan.steps) for index in plan.of_step(step))


def test_without_a_ramp_all_steps_are_alike() -> None:
    assert [len(StepPlan(7, 3).of_step(step)) for step in range(3)] == [3, 3, 1]
    with pytest.raises(ValueError, match="at least one"):
        StepPlan(0, 3)


class Numbered:
    """Windows that say which step asked last, and who asked for what."""

    def __init__(self) -> None:
        self._windows, self.asked = make_windows(), list[int]()

    @property
    def step(self) -> int:
        return self.asked[-1] + 1

    def __getitem__(self, index: int) -> Batch:
        self.asked.append(index)
        return self._windows[index]


SPIKY = LoopConfig(
    guard=GuardConfig(settled=6, window=16, deviations=3.0),
    checkpoint_every=4,
    keep_checkpoints=8,
    optimizer=OptimizerConfig(kind="adamw", learning_rate=1e-3, clip_norm=None),
)


def explode_at(monkeypatch: pytest.MonkeyPatch, *calls: int, value: float = math.nan) -> None:
    """The loss that the loop sees at its n-th steps (from 1) is `value`."""
    original, count = loop._read, {"n": 0}

    def wrapped(*args: Any) -> tuple[dict[str, float], dict[str, float]]:
        count["n"] += 1
        values, norms = original(*args)
        return values | ({"loss": value} if count["n"] in calls else {}), norms

    monkeypatch.setattr(loop, "_read", wrapped)


def test_a_withheld_update_changes_no_weight_and_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    explode_at(monkeypatch, 11, value=99.0)
    model, before = make_model(), dict[str, torch.Tensor]()
    original = loop._withhold

    def watch(*args: Any) -> Any:
        before.update({name: p.detach().clone() for name, p in model.named_parameters()})
        return original(*args)

    monkeypatch.setattr(loop, "_withhold", watch)
    trained = train_in(tmp_path, model, NextToken(), make_windows(), 11, SPIKY)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    assert trained.metrics == {"updates_withheld": 1, "rollbacks": 0}
    last = list(read_metrics(tmp_path / "metrics.jsonl"))[-1]
    assert last["event"].startswith("skip: loss 99, usual") and last["step"] == 11
    assert "step 11: loss 99" in (tmp_path / "log.txt").read_text()


def test_several_in_a_row_take_the_weights_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    explode_at(monkeypatch, 10, 11, 12)
    model = make_model()
    train_in(tmp_path, model, NextToken(), make_windows(), 12, SPIKY)
    good = next(c for c in Checkpoints(tmp_path / "checkpoints", keep=9).all() if c.step == 8)
    saved = good.tensors("model")
    assert all(torch.equal(saved[name], p) for name, p in model.named_parameters())
    events = [line.get("event", "") for line in read_metrics(tmp_path / "metrics.jsonl")][9:]
    assert [event.split(":")[0] for event in events] == ["skip", "skip", "roll back"]
    assert "back to the weights after step 8" in (tmp_path / "log.txt").read_text()


def test_training_goes_on_behind_what_was_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = Numbered()
    explode_at(monkeypatch, 10, 11, 12)
    trained = train_in(tmp_path, make_model(), NextToken(), batches, 20, SPIKY)
    assert batches.asked == list(range(20))  # none twice, none left out
    assert trained.tokens == 20 * make_windows()[0].ids.numel()


def child(folder: str, deadly: int) -> None:
    """Trains over NaNs at steps 6 to 8 and 13; dies at its `deadly`-th step (0: never)."""
    torch.set_num_threads(1)
    original, count = loop._read, {"n": 0}
    model, run = make_model(), make_run(Path(folder), SPIKY)

    def wrapped(*args: Any) -> tuple[dict[str, float], dict[str, float]]:
        count["n"] += 1
        if count["n"] == deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        values, norms = original(*args)
        return values | ({"loss": math.nan} if batches.step in (6, 7, 8, 13) else {}), norms

    loop._read = wrapped
    batches = Numbered()
    train(model, NextToken(), batches, SPIKY.plan(18), SPIKY, run, validate=dict)
    run.close()
    save_file(dict(model.state_dict()), Path(folder) / "end.safetensors")


def start(folder: Path, deadly: int) -> int:
    errors = folder.with_suffix(".errors")
    code = children.run(errors, child, str(folder), deadly)
    assert code in (0, -signal.SIGKILL), errors.read_text()
    return code


def test_killed_around_a_rollback_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    assert start(tmp_path / "unbroken", 0) == 0
    for deadly in (8, 5, 3):  # in the streak, behind the rollback, at a later step
        assert start(tmp_path / "broken", deadly) == -signal.SIGKILL
    assert start(tmp_path / "broken", 0) == 0
    a, b = (load_file(tmp_path / name / "end.safetensors") for name in ("unbroken", "broken"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert (tmp_path / "unbroken" / "metrics.jsonl").read_text() == (
        tmp_path / "broken" / "metrics.jsonl"
    ).read_text()


def test_without_a_checkpoint_to_go_back_to_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    explode_at(monkeypatch, 1, 2, 3)
    with pytest.raises(UserError, match=r"diverged at step 3: loss not finite.*lower the learning rate"):
        train_in(tmp_path, make_model(), NextToken(), make_windows(), 12, SPIKY)


def break_weight_at(monkeypatch: pytest.MonkeyPatch, model: nn.Module, asked: int) -> None:
    """A weight becomes NaN as a step (from 1) begins."""
    original = loop._accumulate

    def wrapped(*args: Any) -> Any:
        if args[-1] + 1 == asked:
            with torch.no_grad():
                model.get_parameter("model.norm.weight")[0] = math.nan
        return original(*args)

    monkeypatch.setattr(loop, "_accumulate", wrapped)


def test_a_broken_weight_goes_back_at_once_even_in_the_last_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model()
    break_weight_at(monkeypatch, model, 14)
    found = train_in(tmp_path, model, NextToken(), make_windows(), 14, SPIKY)
    assert found.metrics == {"updates_withheld": 1, "rollbacks": 1}
    last = list(read_metrics(tmp_path / "metrics.jsonl"))[-1]["event"]
    assert last.startswith("roll back: loss, grad_norm not finite; the weights model.norm.weight hold values")
    assert "step 14: back to the weights after step 12" in (tmp_path / "log.txt").read_text()
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_checkpoint_with_a_broken_weight_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weight broke after the last loss before the checkpoint: nobody could see it yet."""
    model = make_model()
    original = loop._State.save

    def save(at: Any, checkpoints: Checkpoints) -> None:
        if at.step == 8:
            with torch.no_grad():
                model.get_parameter("model.norm.weight")[0] = math.nan
        original(at, checkpoints)

    monkeypatch.setattr(loop._State, "save", save)
    found = train_in(tmp_path, model, NextToken(), make_windows(), 14, SPIKY)
    assert found.metrics == {"updates_withheld": 1, "rollbacks": 1}
    log = (tmp_path / "log.txt").read_text()
    assert "passing over the checkpoint of step 8: the weights model.norm.weight hold values" in log
    assert "step 9: back to the weights after step 4" in log
    assert all(p.isfinite().all() for p in model.parameters())


def test_amid_trouble_no_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one that is kept, that of step 8 would push out the one of step 4, which is gone back to."""
    explode_at(monkeypatch, 7, 8, 9)
    settings = SPIKY.model_copy(update={"keep_checkpoints": 1})
    train_in(tmp_path, make_model(), NextToken(), make_windows(), 11, settings)
    assert "step 9: back to the weights after step 4" in (tmp_path / "log.txt").read_text()


def test_a_frozen_weight_that_broke_ends_the_run_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No checkpoint holds it, so none can bring it back."""
    model = make_model()
    model.get_parameter("model.norm.weight").requires_grad_(False)
    break_weight_at(monkeypatch, model, 9)
    with pytest.raises(UserError, match=r"step 9: .*not finite; the weights model.norm.weight hold values"):
        train_in(tmp_path, model, NextToken(), make_windows(), 12, SPIKY)


def test_of_a_mixture_of_experts_too_the_log_says_what_is_usual(tmp_path: Path) -> None:
    """Its balance is measured besides, after the guard has judged: it makes no other kind of step."""
    mixture: dict[str, Any] = {"architecture": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2}
    model = make_model(**mixture, moe_intermediate_size=16)
    settings = SPIKY.model_copy(update={"validate_every": 10})
    train_in(tmp_path, model, NextToken(), make_windows(), 20, settings)
    log = (tmp_path / "log.txt").read_text()
    assert "step 10: loss " in log and log.count(" (usual ") == 4


def break_forward(model: nn.Module, name: str) -> None:
    def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return output * math.nan

    model.get_submodule(name).register_forward_hook(hook)


def diagnosed(model: nn.Module, objective: Any, *micro: Batch) -> str:
    return first_nonfinite(Spread(model), objective, [Share(batch) for batch in micro]).said


@pytest.mark.parametrize("name", ["model.embed_tokens", "model.layers.1.mlp.down_proj", "model.norm"])
def test_the_first_module_with_a_nan_is_named(name: str) -> None:
    model = make_model()
    break_forward(model, name)
    assert f"came out of {name} (" in diagnosed(model, NextToken(), make_windows()[0])


def test_a_broken_weight_loss_or_gradient_is_named() -> None:
    batch = make_windows()[0]
    model = make_model()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = math.inf
    assert "the weights model.layers.1.mlp.up_proj.weight" in diagnosed(model, NextToken(), batch)

    class Broken(NextToken):
        def __call__(self, output: Any, batch: Batch) -> Any:
            loss, metrics = super().__call__(output, batch)
            return loss * math.nan, metrics

    assert "the loss of micro-batch 1 is not" in diagnosed(make_model(), _SecondBroken(), batch, batch)
    assert "the loss of micro-batch 0 is not" in diagnosed(make_model(), Broken(), batch)
    model = make_model()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    model.model.layers[0].self_attn.q_proj.weight.grad[0] = math.nan  # type: ignore[index]
    assert "model.layers.0.self_attn.q_proj.weight" in diagnosed(model, NextToken(), batch)
    assert "did not repeat" in diagnosed(make_model(), NextToken(), batch)


class _SecondBroken(NextToken):
    def __init__(self) -> None:
        super().__init__()
        self._calls = 0

    def __call__(self, output: Any, batch: Batch) -> Any:
        loss, metrics = super().__call__(output, batch)
        self._calls += 1
        return (loss * math.nan if self._calls == 2 else loss), metrics


def seen_by(batches: Any, folder: Path, steps: int, changes: dict[str, Any] | None = None) -> Any:
    """A run with the guard's own settings; how often it stepped in."""
    config = LoopConfig(optimizer=OptimizerConfig(**({"learning_rate": 1e-2} | (changes or {}))))
    return train_in(folder, make_model(), NextToken(), batches, steps, config).metrics


class Curriculum:
    """Text of one kind, and from step 60 on of another one: `shared` of its tokens were seen before."""

    def __init__(self, shared: float) -> None:
        self._windows, self._shared = make_windows(rows=4), shared

    def __getitem__(self, index: int) -> Batch:
        batch, half = self._windows[index], 20
        old = np.random.default_rng(index).random(batch.ids.numel()) < (self._shared if index >= 60 else 0.9)
        ids = batch.ids.flatten() % half + half * torch.from_numpy(~old)
        targets = ids.roll(-1)
        return Batch(ids=ids.view_as(batch.ids), targets=targets.view_as(batch.ids), segments=batch.segments)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_change_of_source_in_mid_run_is_no_spike(tmp_path: Path, kind: str) -> None:
    assert seen_by(Curriculum(0.3), tmp_path, 90, {"kind": kind})["updates_withheld"] == 0


def test_after_text_never_seen_before_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loss that jumps and stays, with no checkpoint yet: withheld a few times, then it is the usual one."""
    explode_at(monkeypatch, *range(11, 16), value=50.0)
    settings = SPIKY.model_copy(update={"checkpoint_every": 100})
    found = train_in(tmp_path, make_model(), NextToken(), make_windows(), 16, settings)
    assert found.metrics == {"updates_withheld": 3, "rollbacks": 1}
    assert "no checkpoint to go back to; what comes now" in (tmp_path / "log.txt").read_text()


def test_a_checkpoint_from_before_there_were_kinds_is_read() -> None:
    guard = Guard(GuardConfig())
    counts = {"withheld": 1, "withheld_in_all": 4, "rollbacks": 2}
    guard.load_state({"recent": {"loss": [1.0] * 99, "grad_norm": [1.0] * 99}, **counts})
    assert guard.totals() == {"updates_withheld": 4, "rollbacks": 2} and guard.usual("loss") is None


class TwoKinds(NextToken):
    """Some batches have a loss of another size, and say so by what is measured in them."""

    def __call__(self, output: Any, batch: Batch) -> Any:
        loss, metrics = super().__call__(output, batch)
        if "sampled" not in batch.extra:
            return loss, metrics
        return 20 * loss, metrics | {"sampled": loss.detach()}


class NowAndThen:
    """Windows, of which each eighth is of the other kind."""

    def __getitem__(self, index: int) -> Batch:
        batch = make_windows()[index]
        return replace(batch, extra={"sampled": torch.ones(len(batch.ids))}) if index % 8 == 7 else batch


@pytest.mark.parametrize(("spike", "step"), [(40.0, 150), (800.0, 152)], ids=["usual", "rare"])
def test_steps_are_compared_with_those_of_their_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spike: float, step: int
) -> None:
    """The rare kind's usual loss is some 70, the other's some 3.5: 40 is a spike of the one alone."""
    explode_at(monkeypatch, step, value=spike)
    settings = SPIKY.model_copy(update={"guard": GuardConfig(settled=12), "checkpoint_every": 1000})
    found = train_in(tmp_path, make_model(), TwoKinds(), NowAndThen(), 160, settings)
    assert found.metrics == {"updates_withheld": 1, "rollbacks": 0}
    rows = list(read_metrics(tmp_path / "metrics.jsonl"))
    assert [row["step"] for row in rows if "event" in row] == [step]
    assert min(row["loss"] for row in rows if "sampled" in row) > 5 * max(
        row["loss"] for row in rows if "sampled" not in row and row["step"] != step
    )


def test_uneven_batches_are_no_spikes(tmp_path: Path) -> None:
    class Answers:
        """One to all positions are supervised, as in fine-tuning."""

        def __getitem__(self, index: int) -> Batch:
            batch = make_windows(rows=2)[index]
            keep = 1 + int(np.random.default_rng(index).integers(0, 31))
            targets = batch.targets.flatten().clone()
            targets[keep:] = IGNORE
            return Batch(ids=batch.ids, targets=targets.view_as(batch.targets), segments=batch.segments)

    found = seen_by(Answers(), tmp_path, 120)
    assert found["rollbacks"] == 0 and found["updates_withheld"] == 0
