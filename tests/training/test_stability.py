"""z-loss and QK-norm, each against the fault that it is there for, beside the same training without it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.tiny import make_model, make_windows, train_in
from torch import Tensor

from modelwright.base.metrics import read_metrics
from modelwright.base.schema import Batch
from modelwright.kernels.cross_entropy import reference_logprobs, reference_normalizers
from modelwright.model import attention
from modelwright.model.transformer import Transformer
from modelwright.objectives.next_token import NextToken
from modelwright.training.loop import LoopConfig
from modelwright.training.optimizer import OptimizerConfig

PLAIN = LoopConfig(optimizer=OptimizerConfig(kind="adamw", learning_rate=1e-2), validate_every=1000)
FAST = PLAIN.model_copy(update={"optimizer": OptimizerConfig(kind="adamw", learning_rate=3e-2)})
Z = 0.1
"""Far more than a real training takes: this one is short."""
HELD_OUT = make_windows(rows=8, seed=9)[0]


@torch.no_grad()
def head_inputs(model: Transformer) -> tuple[Tensor, Tensor, Tensor]:
    """(N, D) hidden states of held-out text, the (V, D) head, and (N,) targets."""
    output = model.on_batch(HELD_OUT)
    return output.hidden.flatten(0, 1), output.head.detach(), HELD_OUT.targets.flatten()


class Pushed:
    """Windows; with each that is read a fault pushes the logits of all tokens up alike. Their probabilities
    stay as they were, so the likelihood is blind to it, and the softmax's denominator grows."""

    def __init__(self, model: Transformer, nats: float) -> None:
        self._model, self._nats, self._windows = model, nats, make_windows(rows=4)

    @torch.no_grad()
    def __getitem__(self, index: int) -> Batch:
        middle = head_inputs(self._model)[0].mean(0)
        self._model.lm_head.weight.add_(self._nats * middle / middle.square().sum())  # type: ignore[union-attr]
        return self._windows[index]


def pushed(folder: Path, z_loss: float, nats: float = 0.3, steps: int = 150) -> Transformer:
    model = make_model(tie_word_embeddings=False)
    train_in(folder, model, NextToken(z_loss), Pushed(model, nats), steps, FAST)
    losses = [row["loss"] for row in read_metrics(folder / "metrics.jsonl")]
    assert len(losses) == steps and all(math.isfinite(loss) for loss in losses)
    return model


def test_a_head_that_drifts_is_held_by_the_z_loss(tmp_path: Path) -> None:
    """Pushed by 45 nats in 150 steps, it stays near a denominator of 1; and what rounding to bf16 costs a
    token, in which large logits lie far apart, stays small."""
    normalizer: dict[float, float] = {}
    rounding: dict[float, float] = {}
    for z in (0.0, Z):
        hidden, head, targets = head_inputs(pushed(tmp_path / str(z), z))
        normalizer[z] = float(reference_normalizers(hidden, head).mean())
        coarse = (hidden @ head.T).bfloat16().float().log_softmax(-1).gather(1, targets[:, None])[:, 0]
        rounding[z] = float((coarse - reference_logprobs(hidden, head, targets)).abs().mean())
    assert normalizer[0.0] > 30 and abs(normalizer[Z]) < 5
    assert rounding[Z] < rounding[0.0] / 3


def test_the_z_loss_brings_a_head_back_that_has_drifted(tmp_path: Path) -> None:
    """The fault is over: with the z-loss the denominator's log is gone in 120 steps; without it, a part of
    it is there still."""
    left: dict[float, float] = {}
    for z in (0.0, Z):
        model = make_model(tie_word_embeddings=False)
        Pushed(model, 20.0)[0]
        before = float(reference_normalizers(*head_inputs(model)[:2]).mean())
        train_in(tmp_path / str(z), model, NextToken(z), make_windows(rows=4), 120, FAST)
        left[z] = float(reference_normalizers(*head_inputs(model)[:2]).mean()) / before
        assert before > 15
    assert left[0.0] > 0.2 and abs(left[Z]) < 0.02


def test_the_pull_is_autograds_of_the_formula_where_the_denominator_is_huge() -> None:
    """The loss in parts against log-softmax and logsumexp written out, with a normalizer of 60 nats."""
    model = make_model(tie_word_embeddings=False)
    Pushed(model, 60.0)[0]
    hidden, head, targets = head_inputs(model)
    places = [hidden.clone().requires_grad_(), head.clone().requires_grad_()]
    output = type(model.on_batch(HELD_OUT))(places[0].view(*HELD_OUT.ids.shape, -1), places[1], None)
    loss, parts = NextToken(0.01)(output, HELD_OUT)
    found = torch.autograd.grad(loss, places)
    logits = places[0].double() @ places[1].double().T
    formula = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    squares = 0.01 * logits.logsumexp(-1).square().sum()
    torch.testing.assert_close(parts["z_loss"].double(), squares.detach(), rtol=1e-5, atol=1e-4)
    for mine, wanted in zip(found, torch.autograd.grad(formula + squares, places), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-4)


@dataclass
class Scores:
    """What attention compared, in one forward pass."""

    largest: float = 0.0
    """Of the scores, absolute."""
    entropies: list[float] = field(default_factory=list[float])
    """By layer: mean entropy over queries, as a share of that of looking at all places alike."""


@contextmanager
def seen_scores() -> Iterator[Scores]:
    """Watches the queries and keys that attention is given."""
    original, seen = attention.attend, Scores()

    def watch(q: Tensor, k: Tensor, v: Tensor, *rest: Any, **more: Any) -> Tensor:
        each = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
        scores = (q @ each.mT / math.sqrt(q.shape[-1])).double()
        hidden = torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool).triu(1)
        chances = scores.masked_fill(hidden, -math.inf).softmax(-1)
        entropy = torch.special.entr(chances).sum(-1)[..., 1:]
        usual = torch.arange(2, q.shape[-2] + 1).double().log()
        seen.largest = max(seen.largest, float(scores.abs().max()))
        seen.entropies.append(float((entropy / usual).mean()))
        return original(q, k, v, *rest, **more)

    attention.attend = watch
    try:
        yield seen
    finally:
        attention.attend = original


def measured(model: Transformer) -> tuple[float, Scores]:
    """(loss per token, scores) on held-out text."""
    with torch.no_grad(), seen_scores() as seen:
        loss, _ = NextToken()(model.on_batch(HELD_OUT), HELD_OUT)
    return float(loss) / HELD_OUT.targets.numel(), seen


@torch.no_grad()
def blown_up(architecture: str, times: float) -> Transformer:
    """A model whose query and key weights a fault has multiplied."""
    model = make_model(architecture=architecture)  # type: ignore[arg-type]
    for name, weight in model.named_parameters():
        if "q_proj.weight" in name or "k_proj.weight" in name:
            weight.mul_(times)
    return model


@pytest.mark.parametrize("architecture", ["qwen3", "llama"])
def test_attention_saturates_without_qk_norm_and_not_with_it(architecture: str, tmp_path: Path) -> None:
    """Queries and keys a hundred times as large: with QK-norm nothing changes. Without it attention looks at
    one place each, before and after training."""
    sound, fault = blown_up(architecture, 1.0), blown_up(architecture, 100.0)
    (loss, scores), (broken_loss, broken) = measured(sound), measured(fault)
    assert min(scores.entropies) > 0.7
    losses: dict[str, list[float]] = {}
    for name, model in (("sound", sound), ("fault", fault)):
        train_in(tmp_path / name, model, NextToken(), make_windows(rows=4), 40, PLAIN)
        losses[name] = [row["loss"] for row in read_metrics(tmp_path / name / "metrics.jsonl")]
    after = measured(fault)[1]
    if architecture == "qwen3":
        assert broken.largest < math.sqrt(8) * 1.001, "norms of 1 bound scores by the root of the head's size"
        assert broken_loss == pytest.approx(loss, rel=1e-3)
        assert broken.entropies == pytest.approx(scores.entropies, rel=1e-3)
        assert min(after.entropies) > 0.5
        assert losses["fault"][-1] == pytest.approx(losses["sound"][-1], rel=0.1)
        assert losses["fault"][-1] < losses["fault"][0]
    else:
        assert broken.largest > 100
        assert max(broken.entropies) < 0.2 and max(after.entropies) < 0.3
