"""Distillation: against plain torch, and the properties that losses of this kind have been found to break."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.training.tiny import make_model, train_in
from torch import Tensor
from torch.nn import functional as F

from modelwright import objectives
from modelwright.base.errors import ConfigError
from modelwright.base.schema import IGNORE, Batch
from modelwright.kernels import paired_logits
from modelwright.kernels.paired_logits import reference_sums, summed_over_logits
from modelwright.objectives.distill import SAMPLED, Config, Distillation, divergence, judge
from modelwright.training.batches import Example, Packed, padded
from modelwright.training.loop import LoopConfig, mean_loss
from modelwright.training.optimizer import OptimizerConfig

WORDS = 40
WAYS: list[dict[str, Any]] = [
    {"divergence": "forward"},
    {"divergence": "reverse", "temperature": 2.0},
    {"divergence": "jsd", "beta": 0.3, "weight": 0.4},
    {"divergence": "forward", "top": 5, "temperature": 3.0, "weight": 0.7},
    {"divergence": "reverse", "top": 5},
    {"divergence": "jsd", "top": 1},
]
each_way = pytest.mark.parametrize("way", WAYS, ids=str)


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """(n,) by torch's own function, whose target is what the expectation is over."""
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)


def by_hand(student: Tensor, teacher: Tensor, targets: Tensor, way: dict[str, Any]) -> Tensor:
    """The loss in fp64 from plain probabilities: the papers' formulas, written once more."""
    heat, weight = way.get("temperature", 1.0), way.get("weight", 1.0)
    q, p = (torch.softmax(each.double() / heat, -1) for each in (student, teacher))
    if top := way.get("top", 0):
        likeliest = p.argsort(descending=True)[:, :top]
        q, p = (
            torch.cat((each.gather(1, likeliest), 1 - each.gather(1, likeliest).sum(1, keepdim=True)), 1)
            for each in (q, p)
        )
    if way["divergence"] == "forward":
        apart = kl(p.log(), q.log())
    elif way["divergence"] == "reverse":
        apart = kl(q.log(), p.log())
    else:
        beta = way.get("beta", 0.5)
        mixture = (beta * p + (1 - beta) * q).log()
        apart = beta * kl(p.log(), mixture) + (1 - beta) * kl(q.log(), mixture)
    likelihood = F.cross_entropy(student.double(), targets, reduction="sum")
    return weight * heat**2 * apart.sum() + (1 - weight) * likelihood


def states(n: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Hidden states and heads of a student of width 12 and a teacher of width 20, and targets."""
    random = torch.Generator().manual_seed(n)
    hidden = torch.randn(n, 12, generator=random).to(dtype).requires_grad_()
    head = torch.randn(WORDS, 12, generator=random).requires_grad_()
    other, other_head = torch.randn(n, 20, generator=random), torch.randn(WORDS, 20, generator=random) / 2
    return hidden, head, other.to(dtype), other_head, torch.randint(0, WORDS, (n,), generator=random)


@each_way
def test_the_loss_and_its_gradient_are_those_of_the_papers(way: dict[str, Any]) -> None:
    random = torch.Generator().manual_seed(1)
    student, teacher = torch.randn(2, 9, WORDS, generator=random).mul(2).unbind()
    student.requires_grad_()
    targets = torch.randint(0, WORDS, (9,), generator=random)
    loss, _ = judge(Config(**way))(student, teacher, targets)
    expected = by_hand(student, teacher, targets, way)
    torch.testing.assert_close(loss, expected.float(), rtol=1e-5, atol=1e-5)
    (got,), (wanted,) = (torch.autograd.grad(each, student) for each in (loss, expected))
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)


@each_way
def test_the_gradient_is_the_slope(way: dict[str, Any]) -> None:
    """By finite differences, in fp64."""
    random = torch.Generator().manual_seed(2)
    student, teacher = torch.randn(2, 3, 9, generator=random, dtype=torch.float64).unbind()
    targets = torch.tensor([0, 8, 4])
    way = way | {"top": min(way.get("top", 0), 4)}
    assert torch.autograd.gradcheck(
        lambda x: judge(Config(**way))(x, teacher, targets)[0], student.requires_grad_()
    )


@each_way
@pytest.mark.parametrize(("n", "chunk"), [(1, 1), (20, 7), (130, 64), (130, 1000)])
def test_chunks_change_neither_loss_nor_gradient(way: dict[str, Any], n: int, chunk: int) -> None:
    hidden, head, *rest = states(n)
    wanted, parts = reference_sums(hidden, head, *rest, judge(Config(**way)))
    loss, found = summed_over_logits(hidden, head, *rest, judge(Config(**way)), chunk)
    torch.testing.assert_close((loss, found), (wanted, parts), rtol=1e-5, atol=1e-4)
    for got, expected in zip(
        torch.autograd.grad(3 * loss, (hidden, head)),
        torch.autograd.grad(3 * wanted, (hidden, head)),
        strict=True,
    ):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_no_more_than_a_chunk_of_logits_is_judged_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def watched(student: Tensor, teacher: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(len(student))
        return judge(Config())(student, teacher, targets)

    monkeypatch.setattr(paired_logits, "CHUNK", 64)
    summed_over_logits(*states(200), watched)[0].backward()
    assert sum(seen) == 200 and max(seen) == 64


def test_sums_are_in_fp32_where_hidden_states_are_not() -> None:
    """bf16 products, as the models make them; what is added up of them is not rounded again."""
    hidden, head, other, other_head, targets = states(2000, torch.bfloat16)
    loss, _ = summed_over_logits(hidden, head, other, other_head, targets, judge(Config()))
    student = (hidden @ head.to(torch.bfloat16).T).float()
    teacher = (other @ other_head.to(torch.bfloat16).T).float()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(
        by_hand(student, teacher, targets, {"divergence": "forward"}).item(), rel=1e-5
    )
    d_hidden, d_head = torch.autograd.grad(loss, (hidden, head))
    assert (d_hidden.dtype, d_head.dtype) == (torch.bfloat16, torch.float32)


def test_a_frozen_head_gets_no_gradient_and_a_teacher_never_one() -> None:
    hidden, head, other, other_head, targets = states(20)
    other_head.requires_grad_()
    loss, parts = summed_over_logits(hidden, head.detach(), other, other_head, targets, judge(Config()))
    loss.backward()
    assert hidden.grad is not None and other_head.grad is None and not parts.requires_grad
    with torch.no_grad():
        again, _ = summed_over_logits(hidden, head, other, other_head, targets, judge(Config()))
    torch.testing.assert_close(again, loss.detach())


logits = st.lists(st.floats(-30, 30, width=32), min_size=6, max_size=6).map(lambda x: torch.tensor([x]))


@settings(max_examples=30, deadline=None)
@given(student=logits, teacher=logits, top=st.integers(1, 5), beta=st.floats(0.01, 0.99))
def test_a_divergence_is_positive_and_grows_with_what_is_told_apart(student, teacher, top, beta) -> None:
    """Never negative, 0 for equals; less of it is seen through the top k; no token's is above what a mixture
    can differ by."""
    target = torch.tensor([0])
    for kind in ("forward", "reverse", "jsd"):
        whole, coarse = (
            float(judge(Config(divergence=kind, beta=beta, top=k))(student, teacher, target)[0])
            for k in (0, top)
        )
        assert -1e-4 <= coarse <= whole + 1e-4 + 1e-5 * whole
        assert float(judge(Config(divergence=kind, beta=beta))(student, student, target)[0]) == pytest.approx(
            0, abs=1e-5
        )
        if kind == "jsd":
            entropy = -beta * torch.tensor(beta).log() - (1 - beta) * torch.tensor(1 - beta).log()
            assert whole <= float(entropy) + 1e-4


def test_jsd_goes_from_forward_to_reverse() -> None:
    p, q = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(4)).double().log_softmax(-1).unbind()
    for beta, scale, limit in ((1e-5, 1e-5, "forward"), (1 - 1e-5, 1e-5, "reverse")):
        near = divergence(q, p, Config(divergence="jsd", beta=beta)) / scale
        torch.testing.assert_close(near, divergence(q, p, Config(divergence=limit)), rtol=1e-3, atol=1e-4)


def test_a_temperature_leaves_the_size_of_the_gradient() -> None:
    """For T far above the logits the gradient tends to a limit (arXiv 1503.02531, section 2.1)."""
    random = torch.Generator().manual_seed(5)
    student, teacher = torch.randn(2, 4, WORDS, generator=random).double().unbind()
    student.requires_grad_()
    slopes = [
        torch.autograd.grad(judge(Config(temperature=t))(student, teacher, torch.zeros(4).long())[0], student)
        for t in (300.0, 600.0)
    ]
    torch.testing.assert_close(slopes[0], slopes[1], rtol=0.05, atol=1e-3)
    limit = ((student - student.mean(1, True)) - (teacher - teacher.mean(1, True))) / WORDS
    torch.testing.assert_close(slopes[1][0], limit.detach(), rtol=0.05, atol=1e-3)


def test_rows_of_a_longer_head_that_belong_to_no_token_are_not_compared() -> None:
    student, teacher = torch.randn(2, 6, WORDS).unbind()
    targets = torch.zeros(6).long()
    plain = judge(Config())(student, teacher, targets)[0]
    longer = torch.cat((teacher, torch.full((6, 8), 5.0)), 1)
    torch.testing.assert_close(judge(Config())(student, longer, targets)[0], plain)
    torch.testing.assert_close(judge(Config())(longer[:, :-8], student, targets)[0],
                               judge(Config())(longer, student, targets)[0])  # fmt: skip


def rows(lengths: list[int], masked: int = 0) -> list[Example]:
    """Examples of these lengths; the first `masked` of them have nothing to learn."""
    random = torch.Generator().manual_seed(2)
    made = [torch.randint(1, WORDS, (length,), generator=random).tolist() for length in lengths]
    return [
        Example(ids, [place >= masked and n > 1 for n in range(len(ids))]) for place, ids in enumerate(made)
    ]


def distilled(**way: Any) -> Distillation:
    teacher = make_model(7, hidden_size=32).eval().requires_grad_(False)
    return Distillation(teacher.on_batch, Config(**way))


def gradient(model: Any, objective: Distillation, batches: list[Batch]) -> Tensor:
    model.zero_grad()
    count = sum(objective.count(batch) for batch in batches)
    for batch in batches:
        (objective(model.on_batch(batch), batch)[0] / count).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@each_way
def test_micro_batches_and_padding_change_no_gradient(way: dict[str, Any]) -> None:
    model, objective, made = make_model(), distilled(**way), rows([9, 3, 17, 5, 11, 2])
    whole = gradient(model, objective, [padded(made, 0)])
    split = [padded(made[part], 0) for part in (slice(0, 1), slice(1, 5), slice(5, 6))]
    torch.testing.assert_close(gradient(model, objective, split), whole, rtol=1e-4, atol=1e-6)
    wide = gradient(model, objective, [padded(made, 0, 64)])
    torch.testing.assert_close(wide, whole, rtol=1e-4, atol=1e-6)


def test_what_is_masked_teaches_nothing() -> None:
    """The target that stands at a masked place does not matter, and rows without a label give nothing."""
    model, objective = make_model(), distilled(weight=0.5)
    empty, mixed = padded(rows([9, 6], masked=2), 0), padded(rows([9, 6, 7], masked=2), 0)
    loss, parts = objective(model.on_batch(empty), empty)
    loss.backward()
    assert float(loss.detach()) == 0.0 == float(parts["divergence"]) and objective.count(empty) == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
    third = mixed.part(2, 3)
    with torch.no_grad():
        together, alone = (float(objective(model.on_batch(seen), seen)[0]) for seen in (mixed, third))
    assert (mixed.targets[:2] == IGNORE).all() and together == pytest.approx(alone, rel=1e-5)


def test_packed_conversations_are_taught_as_single_ones_are() -> None:
    """The teacher too does not see across their borders."""
    model, objective, made = make_model(), distilled(), rows([9, 3, 17, 5, 11, 6])
    packed = mean_loss(model, objective, Packed(made, 2, 32, seed=1, padding=0))
    single = mean_loss(model, objective, [padded([one], 0) for one in made])
    assert packed == pytest.approx(single, rel=1e-5)


def test_its_own_teacher_teaches_a_model_nothing() -> None:
    model = make_model()
    batch = padded(rows([9, 6, 7]), 0)
    objective = Distillation(model.on_batch, Config(divergence="reverse"))
    assert gradient(model, objective, [batch]).abs().max() < 1e-6


def test_training_brings_the_student_to_its_teacher(tmp_path: Path) -> None:
    model, teacher = make_model(), make_model(7, hidden_size=32).eval().requires_grad_(False)
    teacher.model.norm.weight.mul_(20)  # as it begins, a model finds all words almost equally likely
    objective = Distillation(teacher.on_batch, Config(divergence="jsd"))
    batches = Packed(rows([17, 9, 12, 14] * 4), 2, 32, seed=1, padding=0, epochs=14)
    before, frozen = mean_loss(model, objective, batches), [p.clone() for p in teacher.parameters()]
    config = LoopConfig(optimizer=OptimizerConfig(kind="adamw", learning_rate=1e-2))
    train_in(tmp_path, model, objective, batches, len(batches), config)
    assert mean_loss(model, objective, batches)["divergence"] < 0.6 * before["divergence"]
    assert all(torch.equal(a, b) for a, b in zip(frozen, teacher.parameters(), strict=True))


def test_a_name_alone_brings_no_teacher() -> None:
    with pytest.raises(ConfigError, match=r"finetune\.teacher"):
        objectives.build({"name": "distill", "temperature": 2.0})


class Table(torch.nn.Module):
    """A model of one parameter a pair of words: the next word depends on the last one alone."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        drawn = torch.randn(5, 5, generator=torch.Generator().manual_seed(seed))
        self.logits = torch.nn.Parameter(2.0 * drawn)

    def on_batch(self, batch: Batch) -> Any:
        output = {"hidden": self.logits[batch.ids], "head": torch.eye(5)}
        return SimpleNamespace(**output, words=None, auxiliary=None)

    def written(self, answers: int, length: int, seed: int) -> Batch:
        """What it writes after word 0, as on-policy batches are."""
        random, ids = torch.Generator().manual_seed(seed), torch.zeros(answers, 1, dtype=torch.long)
        with torch.no_grad():
            for _ in range(length):
                chances = self.logits[ids[:, -1]].softmax(-1)
                ids = torch.cat((ids, torch.multinomial(chances, 1, generator=random)), 1)
        return Batch(ids=ids[:, :-1], targets=ids[:, 1:], extra={SAMPLED: torch.ones(answers)})


def exactly_apart(student: Table, teacher: Table, length: int) -> float:
    """KL of texts of `length` words, the student's from the teacher's, over all texts: nothing is drawn."""
    q, p = (each.logits.detach().log_softmax(-1) for each in (student, teacher))
    here, total = torch.eye(5)[0], 0.0
    for _ in range(length):
        total += float(here @ kl(q, p))
        here = here @ q.exp()
    return total


def test_on_its_own_texts_a_student_comes_to_its_teacher() -> None:
    """The KL of whole texts falls, though no gradient flows through how they were drawn."""
    student, teacher = Table(1), Table(2)
    learn = Distillation(teacher.on_batch, Config(divergence="reverse"))
    optimizer, before = torch.optim.Adam(student.parameters(), 0.1), exactly_apart(student, teacher, 8)
    for step in range(150):
        batch = student.written(16, 8, step)
        loss, metrics = learn(student.on_batch(batch), batch)
        optimizer.zero_grad()
        (loss / learn.count(batch)).backward()
        optimizer.step()
        assert metrics[SAMPLED] == 16 * 8 and "next_token" not in metrics
    assert before > 3 and exactly_apart(student, teacher, 8) < 0.02 * before


def test_own_tokens_are_not_made_likelier() -> None:
    """The likelihood term belongs to the data's tokens. The gradient is that of a batch by anybody."""
    student, teacher = Table(3), Table(4)
    own = student.written(4, 6, 0)
    gradients: list[Tensor] = []
    for weight, batch in ((0.25, own), (1.0, Batch(ids=own.ids, targets=own.targets))):
        student.zero_grad()
        loss, metrics = Distillation(teacher.on_batch, Config(weight=weight))(student.on_batch(batch), batch)
        loss.backward()
        assert float(loss.detach()) == pytest.approx(weight * float(metrics["divergence"]), rel=1e-6)
        assert student.logits.grad is not None
        gradients.append(student.logits.grad.clone() / weight)
    torch.testing.assert_close(*gradients)
