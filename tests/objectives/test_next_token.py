"""Next-token prediction: what is added to the likelihood, and what is masked."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.training.tiny import make_model, train_in
from torch import Tensor

from modelwright import objectives
from modelwright.base.errors import ConfigError, UserError
from modelwright.base.schema import IGNORE, Batch
from modelwright.model.transformer import ModelOutput
from modelwright.objectives.next_token import NextToken
from modelwright.training.batches import Example, Packed, padded
from modelwright.training.loop import LoopConfig, mean_loss
from modelwright.training.optimizer import OptimizerConfig


def case(auxiliary: Tensor | None = None) -> tuple[ModelOutput, Batch]:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(2, 5, 8, generator=generator, requires_grad=True)
    head = torch.randn(11, 8, generator=generator, requires_grad=True)
    targets = torch.randint(0, 11, (2, 5), generator=generator)
    targets[1, 2:] = IGNORE
    return ModelOutput(hidden, head, auxiliary), Batch(ids=targets.clamp(min=0), targets=targets)


@pytest.mark.parametrize("auxiliary", [None, torch.tensor(0.7)])
def test_parts_add_up_and_masked_positions_carry_nothing(auxiliary):
    output, batch = case(auxiliary)
    loss, parts = NextToken(z_loss=0.1)(output, batch)
    assert loss.item() == pytest.approx(sum(part.item() for part in parts.values()), rel=1e-6)
    kept = (batch.targets != IGNORE).flatten()
    normalizers = output.logits().flatten(0, 1)[kept].logsumexp(-1)
    torch.testing.assert_close(parts["z_loss"], 0.1 * normalizers.square().sum().detach())
    plain = NextToken()(case()[0], batch)[0]
    torch.testing.assert_close(parts["next_token"], plain.detach())
    (gradient,) = torch.autograd.grad(loss, output.hidden)
    assert gradient.flatten(0, 1)[~kept].abs().max() == 0


def test_the_z_loss_pulls_the_normalizer_to_zero():
    output, batch = case()
    shift = torch.ones_like(output.hidden)
    for _ in range(50):
        loss, parts = NextToken(z_loss=0.1)(output, batch)
        (gradient,) = torch.autograd.grad(loss, output.hidden)
        shift = output.hidden.detach() - 0.2 * gradient
        output = ModelOutput(shift.requires_grad_(), output.head)
    assert parts["z_loss"] < NextToken(z_loss=0.1)(*case())[1]["z_loss"]


def test_by_name_with_its_setting():
    assert isinstance(objectives.build({"name": "next_token", "z_loss": 1e-4}), NextToken)
    with pytest.raises(ConfigError, match="z_loss"):
        objectives.build({"name": "next_token", "z_loss": -1})


def rows(lengths: list[int], masked: int = 0) -> Batch:
    """Examples of these lengths, one a row; the first `masked` of them have nothing to learn."""
    random = torch.Generator().manual_seed(2)
    made = [torch.randint(1, 40, (length,), generator=random).tolist() for length in lengths]
    return padded([Example(ids, [place >= masked] * len(ids)) for place, ids in enumerate(made)], 0)


def test_rows_without_a_label_give_no_loss_and_no_gradient():
    model = make_model()
    empty, whole = rows([9, 6], masked=2), rows([9, 6, 7], masked=2)
    loss = NextToken()(model.on_batch(empty), empty)[0]
    loss.backward()
    assert float(loss.detach()) == 0.0 and NextToken().count(empty) == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
    third = whole.part(2, 3)
    with torch.no_grad():
        together, alone = (float(NextToken()(model.on_batch(seen), seen)[0]) for seen in (whole, third))
    assert together == pytest.approx(alone, rel=1e-6)


def test_the_mean_is_over_tokens_on_ragged_lengths():
    """As written by hand, and whatever the rows of a micro-batch are."""
    model, lengths = make_model(), [3, 17, 8, 2, 11]
    every = rows(lengths)
    with torch.no_grad():
        logps = model(every.ids).logits().log_softmax(-1)
    by_hand = [
        -float(logps[row, place, every.targets[row, place]])
        for row, length in enumerate(lengths)
        for place in range(length - 1)
    ]
    for size in (1, 2, 5):
        parts = [every.part(first, min(first + size, 5)) for first in range(0, 5, size)]
        found = mean_loss(model, NextToken(), parts)["loss"]
        assert found == pytest.approx(sum(by_hand) / len(by_hand), rel=1e-5)


@pytest.mark.parametrize("batches", [[], [rows([9, 6], masked=2)]])
def test_a_mean_over_nothing_is_refused(batches):
    with pytest.raises(UserError, match=f"{len(batches)} held-out batches hold nothing"):
        mean_loss(make_model(), NextToken(), batches)


def test_a_step_in_micro_batches_is_the_step_at_once(tmp_path):
    """Of unequal numbers of tokens, and more of them learned in some."""
    random = np.random.default_rng(4)
    made = [Example([*range(1, 2 + n)], [False, *(random.random(n) < 0.5).tolist()]) for n in range(2, 22)]
    trained = []
    for rows_at_once, accumulation in ((8, 1), (2, 4), (1, 8)):
        model = make_model()
        config = LoopConfig(accumulation=accumulation, optimizer=OptimizerConfig(learning_rate=1e-2))
        batches = Packed(made, rows_at_once, 24, seed=1, padding=0, epochs=3)
        train_in(tmp_path / str(accumulation), model, NextToken(), batches, 3, config)
        trained.append([parameter.detach() for parameter in model.parameters()])
    for other in trained[1:]:
        for a, b in zip(trained[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
