"""Balance: the loss is the papers', sums and processes change nothing, and the bias is gone at the end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.model.mixtures import config

from modelwright.base.schema import IGNORE, Batch
from modelwright.formats.huggingface import load_model, save_model
from modelwright.model.balance import BalanceConfig, Balancer, Routing, balance_loss, describe, spread
from modelwright.model.init import initialize
from modelwright.model.transformer import Transformer
from modelwright.objectives.next_token import NextToken

ONE = torch.device("cpu")


def itself(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def routing(tokens: int, experts: int = 6, per_token: int = 2, seed: int = 0) -> Routing:
    logits = torch.randn(tokens, experts, generator=torch.Generator().manual_seed(seed))
    return Routing(logits, logits.topk(per_token).indices)


def balancer(kind: str = "loss", experts: int = 6, **changes: object) -> Balancer:
    settings = BalanceConfig.model_validate({"kind": kind, **changes})
    return Balancer(settings, 1, experts, 2, ONE)


def batch(seed: int = 0, rows: int = 4, masked: int = 0) -> Batch:
    ids = torch.randint(0, 96, (rows, 17), generator=torch.Generator().manual_seed(seed))
    targets = ids[:, 1:].clone()
    targets[:, :masked] = IGNORE
    return Batch(ids=ids[:, :-1], targets=targets)


def make(balance: BalanceConfig | None = None) -> Transformer:
    model = Transformer(config(num_hidden_layers=3, mlp_only_layers=(1,)), balance=balance)
    initialize(model, 5)
    return model.train()


def test_the_loss_is_that_of_transformers() -> None:
    """In one layer, at the same loads; over layers we take the mean, where they mix the layers' loads."""
    theirs = pytest.importorskip("transformers.models.qwen3_moe.modeling_qwen3_moe").load_balancing_loss_func
    said = routing(40)
    load = torch.nn.functional.one_hot(said.chosen, 6).sum((0, 1)) / 40
    ours = balance_loss(said.logits, load, torch.ones(40)) / 40
    torch.testing.assert_close(ours, theirs((said.logits,), 6, 2))


def test_the_loss_pushes_tokens_from_the_busy_to_the_idle() -> None:
    logits = torch.zeros(8, 4, requires_grad=True)
    balance_loss(logits, torch.tensor([1.0, 0.5, 0.5, 0.0]), torch.ones(8)).backward()
    assert logits.grad is not None
    assert (logits.grad[:, 0] > 0).all() and (logits.grad[:, 3] < 0).all()
    even = torch.zeros(8, 4, requires_grad=True)
    balance_loss(even, torch.full((4,), 0.5), torch.ones(8)).backward()
    assert even.grad is not None and even.grad.abs().max() < 1e-6


@given(st.integers(1, 4), st.integers(0, 9))
@settings(max_examples=8, deadline=None)
def test_accumulation_and_processes_change_nothing(pieces: int, seed: int) -> None:
    """One batch of rows, or its rows as micro-batches, or in processes of their own."""
    balance = BalanceConfig(loss=0.3, z_loss=0.01)
    whole, parts, processes = make(balance), make(balance), [make(balance) for _ in range(pieces)]
    batches = [batch(seed * 10 + number) for number in range(pieces)]
    joined = Batch(ids=torch.cat([b.ids for b in batches]), targets=torch.cat([b.targets for b in batches]))
    for step in range(2):  # in the second, the loads of the first count
        sums = [
            NextToken()(model.on_batch(one), one)[0].item()
            for model, one in [(whole, joined), *((parts, b) for b in batches)]
        ]
        assert sums[0] == pytest.approx(sum(sums[1:]), rel=1e-5)
        alone = [
            NextToken()(model.on_batch(one), one)[0].item()
            for model, one in zip(processes, batches, strict=True)
        ]
        assert sum(alone) == pytest.approx(sums[0], rel=1e-5)
        counts = sum(model._balancing()._counts for model in processes)
        found = [model.after_step(step / 2, lambda _, c=counts: c.clone()) for model in processes]
        assert whole.after_step(step / 2) == parts.after_step(step / 2) == found[0] == found[-1]
    for other in (parts, *processes):
        assert torch.equal(other.training_state()["load"], whole.training_state()["load"])


def test_tokens_without_a_target_count_for_nothing() -> None:
    model, one = make(BalanceConfig(loss=0.3)), batch(masked=6)
    auxiliary = model.on_batch(one).auxiliary
    kept = model._balancing()._counts.clone()
    assert kept.sum().item() == 2 * 2 * int((one.targets != IGNORE).sum())
    assert auxiliary is not None and auxiliary.item() == pytest.approx(0.3 * 2 * 4 * 10, rel=1e-5)


def test_the_auxiliary_loss_is_trained_and_reported_apart() -> None:
    model, one = make(BalanceConfig(loss=0.5, z_loss=0.1)), batch()
    total, metrics = NextToken()(model.on_batch(one), one)
    assert total.item() == pytest.approx(metrics["next_token"].item() + metrics["auxiliary"].item())
    total.backward()
    with_loss = model.model.layers[0].mlp.gate.weight.grad.clone()
    plain = make(BalanceConfig(kind="none"))
    NextToken()(plain.on_batch(one), one)[0].backward()
    assert not torch.allclose(with_loss, plain.model.layers[0].mlp.gate.weight.grad)


def test_neither_measuring_nor_answering_counts_or_adds_a_loss() -> None:
    model, one = make(), batch()
    with torch.no_grad():
        assert model.on_batch(one).auxiliary is None
    assert model.eval().on_batch(one).auxiliary is None
    assert model._balancer is None
    loss, metrics = NextToken()(model.on_batch(one), one)
    assert metrics == {} and loss.item() > 0


def test_z_loss_is_the_square_of_the_log_sum_exp() -> None:
    said = routing(10)
    found = balancer("none", z_loss=0.1).take([said], torch.ones(10, dtype=torch.bool))
    torch.testing.assert_close(found, 0.1 * said.logits.exp().sum(-1).log().square().sum())


def test_the_bias_moves_against_the_load_by_a_fixed_amount() -> None:
    work = balancer("bias", bias_step=0.25, experts=4)
    chosen = torch.tensor([[0, 1], [0, 1], [0, 2], [0, 1]])  # loads 4, 3, 1, 0; the mean is 2
    assert work.favour is not None and work.favour.abs().max() == 0
    work.take([Routing(torch.zeros(4, 4), chosen)], torch.ones(4, dtype=torch.bool))
    work.after_step(0.1, itself)
    assert work.favour is not None and work.favour.tolist() == [[-0.25, -0.25, 0.25, 0.25]]


def test_a_bias_evens_out_a_router_that_prefers_one_expert() -> None:
    work = balancer("bias", bias_step=0.05, bias_fades=(0.9, 0.95))
    preferred = torch.tensor([2.0, 1, 0, 0, -1, -2])
    violations = []
    for step in range(120):
        logits = routing(256, seed=step).logits + preferred
        favour = work.favour
        assert favour is not None
        chosen = (logits + favour[0]).topk(2).indices
        work.take([Routing(logits, chosen)], torch.ones(256, dtype=torch.bool))
        violations.append(work.after_step(step / 1000, itself)["expert_violation"])
    assert violations[0] > 1.2 and max(violations[-10:]) < 0.4


def test_the_bias_fades_to_nothing_and_the_loss_comes_in() -> None:
    settings = BalanceConfig(kind="bias", loss=0.01, bias_fades=(0.5, 0.8))
    assert [settings.bias_scale(p) for p in (0, 0.5, 0.65, 0.8, 1)] == pytest.approx([1, 1, 0.5, 0, 0])
    work = balancer("bias", loss=0.01, bias_fades=(0.5, 0.8))
    seen = []
    for progress in (0.5, 0.65, 0.9):
        auxiliary = work.take([routing(10)], torch.ones(10, dtype=torch.bool))
        work.after_step(progress, itself)
        seen.append((auxiliary.item(), work.favour is None))
    assert [gone for _, gone in seen] == [False, False, True]
    assert seen[0][0] == seen[1][0] == 0 < seen[2][0]  # the scale of a step was set by the one before
    for fades in ((0.5, 1.0), (0.8, 0.5)):
        with pytest.raises(ValueError, match="shares of the run in order"):
            BalanceConfig(bias_fades=fades)


def train(model: Transformer, steps: range, of: int) -> list[float]:
    """What training/loop.py does, in its order and in few words."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for step in steps:
        one = batch(seed=step)
        loss, _ = NextToken()(model.on_batch(one), one)
        (loss / NextToken().count(one)).backward()
        losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
        model.after_step((step + 1) / of)
    return losses


def test_the_exported_model_is_the_trained_one(tmp_path: Path) -> None:
    """The bias sways the choice while it is there, and is gone before the end: what is saved, which carries
    none, answers as the model does in training."""
    balance = BalanceConfig(kind="bias", bias_step=0.5, bias_fades=(0.4, 0.8))
    model = make(balance)
    train(model, range(4), 10)
    one = batch(seed=99)
    with torch.no_grad():  # what is measured on the way is the model without the bias, as it would be saved
        plain = model(one.ids).hidden
        assert torch.equal(model.on_batch(one).hidden, plain)
    assert not torch.equal(model.on_batch(one).hidden, plain)
    model.load_training_state({**model.training_state()})  # forgets what this look has counted
    train(model, range(4, 10), 10)
    save_model(tmp_path, model)
    saved, trained = load_model(tmp_path)(one.ids), model.on_batch(one)
    assert torch.equal(saved.logits(), trained.logits())
    assert saved.hidden.isfinite().all()


@pytest.mark.parametrize("kind", ["loss", "bias", "none"])
def test_training_goes_on_from_the_state_with_the_same_bits(kind: str) -> None:
    balance = BalanceConfig.model_validate({"kind": kind, "loss": 0.2, "bias_step": 0.3, "z_loss": 0.01})
    unbroken = make(balance)
    train(unbroken, range(4), 9)
    state = {name: tensor.clone() for name, tensor in unbroken.training_state().items()}
    weights = {name: tensor.clone() for name, tensor in unbroken.state_dict().items()}
    losses = train(unbroken, range(4, 9), 9)
    resumed = make(balance)
    resumed.load_state_dict(weights)
    resumed.load_training_state(state)
    assert train(resumed, range(4, 9), 9) == losses
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), unbroken.parameters(), strict=True))


def test_going_back_forgets_what_was_counted() -> None:
    model = make()
    before = {name: tensor.clone() for name, tensor in model.training_state().items()}
    NextToken()(model.on_batch(batch()), batch())
    model.load_training_state(before)
    assert model.after_step(0.5) == {}
    assert torch.equal(model.training_state()["load"], before["load"])


def test_a_dense_model_follows_nothing() -> None:
    dense = Transformer(
        config(architecture="qwen3", num_experts=0, num_experts_per_tok=0, moe_intermediate_size=0)
    )
    initialize(dense, 1)
    assert dense.train().on_batch(batch()).auxiliary is None
    assert (dense.after_step(0.5), dense.training_state(), dense.describe_experts()) == ({}, {}, [])
    dense.load_training_state({})


def test_the_spread_of_loads_in_numbers_and_words() -> None:
    even, one_only = torch.full((1, 4), 0.5), torch.tensor([[2.0, 0, 0, 0]])
    assert spread(even) == pytest.approx(
        {"expert_violation": 0, "expert_violation_mean": 0, "expert_entropy": 1, "idle_experts": 0}
    )
    found = spread(torch.cat((even, one_only)))
    assert found == pytest.approx(
        {"expert_violation": 3, "expert_violation_mean": 1.5, "expert_entropy": 0, "idle_experts": 3}
    )
    assert describe(even)[-1].endswith("healthy")
    assert "uneven" in describe(torch.cat((even, one_only)))[-1]
    assert "0.00 to 4.00" in describe(one_only)[0]


def test_an_output_can_be_made_without_a_mixture() -> None:
    output = make().on_batch(batch())
    assert replace(output, auxiliary=None, routings=()).auxiliary is None
