"""DPO: the properties that trainers of this kind have been found to break."""

from __future__ import annotations

import math

import pytest
import torch
from tests.training.tiny import make_model, train_in
from torch.nn import functional as F

from modelwright.base.schema import IGNORE, Batch
from modelwright.objectives.preference import DirectPreference, sequence_logps
from modelwright.training.batches import Example, Pairs, padded
from modelwright.training.loop import LoopConfig
from modelwright.training.optimizer import OptimizerConfig


def make_examples(pairs: int = 6, seed: int = 0) -> list[tuple[Example, Example]]:
    generator = torch.Generator().manual_seed(seed)

    def example(prompt: list[int]) -> Example:
        size = int(torch.randint(2, 9, (), generator=generator))
        ids = prompt + torch.randint(1, 40, (size,), generator=generator).tolist()
        return Example(ids, [False] * len(prompt) + [True] * size)

    prompts = [torch.randint(1, 40, (4,), generator=generator).tolist() for _ in range(pairs)]
    return [(example(prompt), example(prompt)) for prompt in prompts]


def logps_of(model, examples) -> torch.Tensor:
    rows = [row for pair in examples for row in pair]
    batch = padded(rows, 0)
    with torch.no_grad():
        return sequence_logps(model.on_batch(batch), batch.targets)


def batch_of(examples, reference, padding_multiple: int = 1) -> Batch:
    batch = padded([row for pair in examples for row in pair], 0, padding_multiple)
    return Batch(ids=batch.ids, targets=batch.targets, extra={"reference_logps": reference})


def test_sequence_logps_equal_the_sum_over_answer_tokens():
    model, examples = make_model(), make_examples()
    found = logps_of(model, examples)
    for value, row in zip(found, [row for pair in examples for row in pair], strict=True):
        with torch.no_grad():
            log_probabilities = model(torch.tensor([row.ids])).logits()[0].log_softmax(-1)
        by_hand = sum(log_probabilities[i - 1, row.ids[i]] for i in range(len(row.ids)) if row.mask[i])
        assert value.item() == pytest.approx(by_hand.item(), rel=1e-5)


@pytest.mark.parametrize("beta", [0.05, 0.5])
def test_loss_is_ln_2_at_the_start_and_margins_are_zero(beta):
    model, examples = make_model(), make_examples()
    objective = DirectPreference(beta=beta)
    batch = batch_of(examples, logps_of(model, examples))
    loss, metrics = objective(model.on_batch(batch), batch)
    assert loss.item() / objective.count(batch) == pytest.approx(math.log(2), abs=1e-6)
    assert metrics["margin"].item() == pytest.approx(0, abs=1e-5)


def test_swapping_chosen_and_rejected_negates_the_margin():
    start, moved, examples = make_model(1), make_model(2), make_examples()
    reference = logps_of(start, examples)
    swapped = [(b, a) for a, b in examples]
    batch = batch_of(examples, reference)
    other = batch_of(swapped, reference.view(-1, 2).flip(1).flatten())
    objective = DirectPreference(beta=0.3)
    _, metrics = objective(moved.on_batch(batch), batch)
    _, negated = objective(moved.on_batch(other), other)
    assert abs(metrics["margin"].item()) > 0.01
    assert metrics["margin"].item() == pytest.approx(-negated["margin"].item(), rel=1e-5)


def test_loss_matches_the_formula_by_hand():
    start, moved, examples = make_model(1), make_model(2), make_examples()
    reference, now = logps_of(start, examples), logps_of(moved, examples)
    margins = 0.2 * ((now - reference)[0::2] - (now - reference)[1::2])
    batch = batch_of(examples, reference)
    loss, metrics = DirectPreference(beta=0.2)(moved.on_batch(batch), batch)
    torch.testing.assert_close(loss, -F.logsigmoid(margins).sum())
    assert metrics["accuracy"].item() == (margins > 0).sum().item()


def test_sft_weight_adds_the_mean_token_loss_of_the_chosen():
    model, examples = make_model(), make_examples()
    reference = logps_of(model, examples)
    batch = batch_of(examples, reference)
    plain, _ = DirectPreference()(model.on_batch(batch), batch)
    weighted, _ = DirectPreference(sft_weight=2.0)(model.on_batch(batch), batch)
    lengths = torch.tensor([sum(chosen.mask) for chosen, _ in examples])
    torch.testing.assert_close(weighted - plain, -2.0 * (reference[0::2] / lengths).sum())


def gradient(model, objective, batches) -> torch.Tensor:
    model.zero_grad()
    count = sum(objective.count(batch) for batch in batches)
    for batch in batches:
        (objective(model.on_batch(batch), batch)[0] / count).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def test_padding_changes_neither_loss_nor_gradient():
    start, model, examples = make_model(1), make_model(2), make_examples()
    reference = logps_of(start, examples)
    tight = gradient(model, DirectPreference(), [batch_of(examples, reference)])
    wide = gradient(model, DirectPreference(), [batch_of(examples, reference, 64)])
    torch.testing.assert_close(wide, tight, rtol=1e-5, atol=1e-6)


def test_accumulation_changes_nothing_even_with_unequal_micro_batches():
    start, model, examples = make_model(1), make_model(2), make_examples()
    reference = logps_of(start, examples)
    whole = gradient(model, DirectPreference(), [batch_of(examples, reference)])
    parts = [slice(0, 1), slice(1, 5), slice(5, 6)]
    split = [batch_of(examples[p], reference[2 * p.start : 2 * p.stop]) for p in parts]
    torch.testing.assert_close(gradient(model, DirectPreference(), split), whole, rtol=1e-5, atol=1e-6)


def test_prompt_tokens_carry_no_gradient():
    model, examples = make_model(), make_examples(1)
    batch = batch_of(examples, logps_of(model, examples))
    assert (batch.targets[:, :3] == IGNORE).all()


def test_training_moves_the_policy_and_not_the_reference(tmp_path):
    model, examples = make_model(), make_examples(16)
    reference = logps_of(model, examples)
    pairs = Pairs(examples, 4, seed=1, padding=0, reference_logps=reference, epochs=10)
    frozen = reference.clone()
    config = LoopConfig(optimizer=OptimizerConfig(kind="adamw", learning_rate=3e-3))
    train_in(tmp_path, model, DirectPreference(beta=0.5), pairs, len(pairs), config)
    assert torch.equal(reference, frozen)
    batch = batch_of(examples, reference)
    _, metrics = DirectPreference(beta=0.5)(model.on_batch(batch), batch)
    assert metrics["accuracy"].item() >= 15


@pytest.mark.parametrize("sft_weight", [0.0, 0.3])
def test_a_pair_without_an_answer_teaches_nothing_and_breaks_nothing(sft_weight):
    """Its two sides are as likely as before: a finite loss, and the gradient of the other pairs."""
    model, examples = make_model(), make_examples(3)
    unlabelled = tuple(Example(side.ids, [False] * len(side.ids)) for side in examples[1])
    objective = DirectPreference(beta=0.5, sft_weight=sft_weight)

    def gradients(pairs):
        model.zero_grad()
        batch = batch_of(pairs, torch.zeros(2 * len(pairs)))
        loss = objective(model.on_batch(batch), batch)[0]
        loss.backward()
        return loss.item(), [p.grad.clone() for p in model.parameters() if p.grad is not None]

    with_it, of_all = gradients([examples[0], unlabelled, examples[2]])
    without, of_others = gradients([examples[0], examples[2]])
    assert with_it == pytest.approx(without + math.log(2), rel=1e-5)
    for a, b in zip(of_all, of_others, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
