"""Data made ahead of time is the same data, its errors are seen, and no thread is left behind. And what a GPU
needs of a step: that the host waits for it once."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from modelwright.base.metrics import read_metrics
from modelwright.base.schema import IGNORE, Batch
from modelwright.kernels import flex
from modelwright.objectives.next_token import NextToken
from modelwright.objectives.preference import DirectPreference
from modelwright.training import loop
from modelwright.training.guard import GuardConfig
from modelwright.training.loop import LoopConfig, train
from modelwright.training.optimizer import OptimizerConfig
from modelwright.training.prefetch import portions
from modelwright.training.spread import Spread
from modelwright.training.step_plan import StepPlan

from .tiny import make_model, make_run, make_windows, train_in


class Watched:
    """The tiny windows; keeps which were asked for, and by which threads."""

    def __init__(self, broken: int = -1) -> None:
        self._batches, self._broken = make_windows(), broken
        self.asked: list[int] = []
        self.threads: set[str] = set()

    def __getitem__(self, index: int) -> Batch:
        self.asked.append(index)
        self.threads.add(threading.current_thread().name)
        if index == self._broken:
            raise OSError("the disk is gone")
        return self._batches[index]


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("batches")]


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_what_a_thread_makes_ahead_trains_the_same_bits(tmp_path: Path, ahead: int) -> None:
    for name, prefetch in (("inline", None), ("ahead", ahead)):
        model, batches = make_model(), Watched()
        config = LoopConfig(accumulation=2, prefetch=prefetch, checkpoint_every=4)
        train_in(tmp_path / name, model, NextToken(), batches, 5, config)
        assert batches.asked == list(range(10))
        assert batches.threads == ({"MainThread"} if name == "inline" else {"batches_0"})
        assert threads() == []
    lines, others = (list(read_metrics(tmp_path / name / "metrics.jsonl")) for name in ("inline", "ahead"))
    assert lines == others
    weights, same = (
        load_file(next((tmp_path / name / "checkpoints").glob("*5/model*"))) for name in ("inline", "ahead")
    )
    assert all(torch.equal(weights[name], same[name]) for name in weights)


def test_a_run_that_died_reads_on_where_its_checkpoint_is(tmp_path: Path) -> None:
    config = LoopConfig(prefetch=3, checkpoint_every=2)
    with pytest.raises(OSError, match="the disk is gone"):
        train_in(tmp_path, make_model(), NextToken(), Watched(broken=7), 9, config)
    assert threads() == []
    batches = Watched()
    train_in(tmp_path, make_model(), NextToken(), batches, 9, config)
    assert batches.asked == [6, 7, 8]


def test_an_error_comes_up_at_its_own_step_with_its_cause(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="the disk is gone") as caught:
        train_in(tmp_path, make_model(), NextToken(), Watched(broken=3), 9, LoopConfig(prefetch=3))
    assert any(entry.name == "__getitem__" for entry in caught.traceback), "the place is shown"
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3]


def test_after_a_rollback_reading_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, count = loop._read, {"n": 0}

    def broken(*args: Any) -> tuple[dict[str, float], dict[str, float]]:
        count["n"] += 1
        values, norms = original(*args)
        return values | ({"loss": float("nan")} if count["n"] in (6, 7) else {}), norms

    monkeypatch.setattr(loop, "_read", broken)
    batches = Watched()
    config = LoopConfig(prefetch=2, checkpoint_every=4, guard=GuardConfig(patience=2))
    trained = train_in(tmp_path, make_model(), NextToken(), batches, 10, config)
    assert trained.metrics["rollbacks"] == 1
    assert batches.asked == list(range(10))


def test_no_more_is_held_than_was_asked_for() -> None:
    batches = Watched()
    with portions(Spread(make_model()), NextToken(), batches, StepPlan(100, 1), 10, 3) as ahead:
        for _ in range(2):
            next(ahead)
    assert batches.asked == list(range(10, len(batches.asked) + 10)) and len(batches.asked) <= 2 + 3


def masked(rows: int = 2, length: int = 32) -> Batch:
    """A packed micro-batch with a target at every other token."""
    ids = torch.arange(rows * length).view(rows, length) % 40
    targets = torch.where(ids % 2 == 0, ids, IGNORE)
    return Batch(ids=ids, targets=targets, segments=ids // 20)


def pairs() -> Batch:
    """A micro-batch of one pair."""
    batch = masked()
    extra = {"reference_logps": torch.zeros(2)}
    return Batch(ids=batch.ids, targets=batch.targets, extra=extra, unit=2)


class Same:
    """The same micro-batch for ever."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def __getitem__(self, index: int) -> Batch:
        return self._batch


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize(
    ("objective", "batch"),
    [(NextToken(), masked()), (NextToken(z_loss=0.1), masked()), (DirectPreference(sft_weight=0.1), pairs())],
    ids=["next token", "z-loss", "pairs"],
)
def test_the_host_waits_once_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulation: int, objective: Any, batch: Batch
) -> None:
    """On the meta device, which holds no numbers: whatever asks for one raises, where a GPU would make the
    host wait. Reading a list is let through, and counted."""
    reads: list[int] = []

    def to_list(tensor: torch.Tensor) -> list[float]:
        reads.append(tensor.numel())
        return [1.0] * tensor.numel()

    model = make_model()
    model.to("meta")
    monkeypatch.setattr(torch.Tensor, "tolist", to_list)
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: None)  # its fused form knows no meta device
    monkeypatch.setattr(loop._State, "save", lambda *args: None)
    config = LoopConfig(accumulation=accumulation, optimizer=OptimizerConfig(kind="muon"))
    run = make_run(tmp_path, config)
    train(model, objective, Same(batch), config.plan(3 * accumulation), config, run, validate=dict)
    run.close()
    assert len(reads) == 3


def test_blocks_of_documents_are_found_without_waiting() -> None:
    mask = flex.block_mask(torch.empty(2, 4 * flex.BLOCK, dtype=torch.int64, device="meta"))
    assert mask.kv_num_blocks.shape == (2, 1, 4)
