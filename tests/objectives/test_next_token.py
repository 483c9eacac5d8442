"""Next-token prediction: what is added to the likelihood, and what is masked."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from modelwright import objectives
from modelwright.base.errors import ConfigError
from modelwright.base.schema import IGNORE, Batch
from modelwright.model.transformer import ModelOutput
from modelwright.objectives.next_token import NextToken


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
