"""Optimizers, schedules and averages against what they are defined to be."""

from __future__ import annotations

import math

import pytest
import torch
from tests.training.tiny import make_model, make_windows, train_in

from modelwright.base.errors import UserError
from modelwright.base.metrics import read_metrics
from modelwright.base.schema import IGNORE, Batch
from modelwright.objectives.next_token import NextToken
from modelwright.training.loop import LoopConfig
from modelwright.training.muon import orthogonalize
from modelwright.training.optimizer import Optimizer, OptimizerConfig
from modelwright.training.schedule import ScheduleConfig, make_schedule


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 40), (1, 40, 8)])
def test_muon_updates_are_nearly_orthogonal_and_point_the_same_way(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    found = orthogonalize(matrices, steps=5)
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.3 and values.max() < 1.3
    u, _, vt = torch.linalg.svd(matrices, full_matrices=False)
    cosine = torch.nn.functional.cosine_similarity(found.flatten(1), (u @ vt).flatten(1))
    assert cosine.min() > 0.95


def test_adamw_alone_equals_torch():
    ours, theirs = make_model(), make_model()
    config = OptimizerConfig(kind="adamw", learning_rate=1e-2, weight_decay=0.1, clip_norm=None)
    optimizer = Optimizer(ours.named_parameters(), config)
    inside = [p for n, p in theirs.named_parameters() if p.ndim == 2 and ".layers." in n]
    rest = [p for n, p in theirs.named_parameters() if not (p.ndim == 2 and ".layers." in n)]
    groups = [{"params": inside, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95))
    for i in range(3):
        for model, step in ((ours, lambda: optimizer.step(1.0)), (theirs, reference.step)):
            batch = make_windows()[i]
            model.zero_grad()
            (NextToken()(model.on_batch(batch), batch)[0] / 32).backward()
            step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_clipping_limits_the_gradient_and_reports_the_norm_before():
    model = make_model()
    optimizer = Optimizer(model.named_parameters(), OptimizerConfig(clip_norm=0.5))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    size = sum(p.numel() for p in model.parameters())
    norm = float(optimizer.norm())
    assert norm == pytest.approx(size**0.5, rel=1e-5)
    optimizer.clip(norm)
    clipped = sum(p.grad.square().sum() for p in model.parameters()).sqrt()
    assert clipped == pytest.approx(0.5, rel=1e-3)


def test_a_gradient_within_the_limit_stays_as_it_is():
    model = make_model()
    optimizer = Optimizer(model.named_parameters(), OptimizerConfig(clip_norm=100.0))
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    optimizer.clip(float(optimizer.norm()))
    assert all((p.grad == torch.tensor(1e-3)).all() for p in model.parameters())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_gradient_leaves_the_others_to_be_seen(value):
    model = make_model()
    optimizer = Optimizer(model.named_parameters(), OptimizerConfig(clip_norm=0.5))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    model.model.layers[0].mlp.up_proj.weight.grad[0, 0] = value
    norm = float(optimizer.norm())
    assert not math.isfinite(norm)
    optimizer.clip(norm)
    broken = [name for name, p in model.named_parameters() if not p.grad.isfinite().all()]
    assert broken == ["model.layers.0.mlp.up_proj.weight"]


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_training_learns(kind, tmp_path):
    config = LoopConfig(optimizer=OptimizerConfig(kind=kind, learning_rate=1e-2))
    model = make_model()
    train_in(tmp_path, model, NextToken(), make_windows(rows=8), 150, config)
    losses = [line["loss"] for line in read_metrics(tmp_path / "metrics.jsonl")]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_accumulation_changes_nothing(tmp_path):
    """Rows of unequal weight: half of the second micro-batch is masked."""

    class Halves:
        def __init__(self, parts: int) -> None:
            self.parts = parts

        def __getitem__(self, index: int) -> Batch:
            step, part = divmod(index, self.parts)
            whole = make_windows(rows=4)[step]
            targets = whole.targets.clone()
            targets[3, :9] = IGNORE
            size = 4 // self.parts
            here = slice(part * size, part * size + size)
            return Batch(ids=whole.ids[here], targets=targets[here], segments=whole.segments[here])

    ends = []
    for parts in (1, 2, 4):
        model = make_model()
        config = LoopConfig(accumulation=parts, optimizer=OptimizerConfig(kind="adamw"))
        train_in(tmp_path / str(parts), model, NextToken(), Halves(parts), 3, config)
        ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], rtol=1e-4, atol=2e-5)


def test_a_batch_without_targets_is_refused(tmp_path):
    class Masked:
        def __getitem__(self, index: int) -> Batch:
            ids = torch.ones(1, 4, dtype=torch.int64)
            return Batch(ids=ids, targets=torch.full_like(ids, IGNORE))

    with pytest.raises(UserError, match="masked"):
        train_in(tmp_path, make_model(), NextToken(), Masked(), 1, LoopConfig())


def test_a_finite_row_may_end_within_its_last_step(tmp_path):
    class Three:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> Batch:
            if index >= 3:
                raise IndexError(index)
            return make_windows()[index]

    config = LoopConfig(accumulation=2)
    trained = train_in(tmp_path, make_model(), NextToken(), Three(), 2, config, micro_batches=3)
    assert trained.tokens == 3 * make_windows()[0].ids.numel()


def test_schedules():
    wsd = make_schedule(ScheduleConfig(kind="wsd", warmup_fraction=0.1, decay_fraction=0.5), 100)
    assert [wsd(0), wsd(9), wsd(49)] == pytest.approx([0.1, 1.0, 1.0])
    assert wsd(75) == pytest.approx(0.5) and wsd(99) == pytest.approx(0.02)
    cosine = make_schedule(ScheduleConfig(kind="cosine", warmup_fraction=0.1, final=0.1), 100)
    assert cosine(10) == pytest.approx(1.0) and cosine(55) == pytest.approx(0.55)
    assert all(0 < make_schedule(ScheduleConfig(), n)(s) <= 1 for n in (1, 2, 7) for s in range(n))
