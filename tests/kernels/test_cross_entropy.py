"""The chunked losses against the plain one, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from threading import Barrier

import pytest
import torch
from torch import Tensor

from modelwright.kernels import cross_entropy
from modelwright.kernels.cross_entropy import (
    linear_cross_entropy,
    reference_logprobs,
    reference_normalizers,
    regularised_cross_entropy,
    token_logprobs,
)

pytestmark = pytest.mark.usefixtures("each_path")


def inputs(n: int, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(n)
    hidden = torch.randn(n, 12, generator=generator).to(dtype).requires_grad_()
    head = torch.randn(50, 12, generator=generator).requires_grad_()
    return hidden, head, torch.randint(0, 50, (n,), generator=generator)


@pytest.mark.parametrize("n", [1, 7, 8, 20])
@pytest.mark.parametrize("chunk", [1, 8, 1000])
def test_sum_and_gradients_match_the_reference(n, chunk):
    hidden, head, targets = inputs(n)
    expected = -reference_logprobs(hidden, head, targets).sum()
    wanted = torch.autograd.grad(3.0 * expected, (hidden, head))
    loss = linear_cross_entropy(hidden, head, targets, chunk)
    got = torch.autograd.grad(3.0 * loss, (hidden, head))
    torch.testing.assert_close(loss, expected)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 8, 1000])
def test_token_logprobs_and_weighted_gradients_match(chunk):
    hidden, head, targets = inputs(20)
    weights = torch.linspace(-1, 2, 20)
    wanted = torch.autograd.grad((reference_logprobs(hidden, head, targets) * weights).sum(), (hidden, head))
    found = token_logprobs(hidden, head, targets, chunk)
    torch.testing.assert_close(found, reference_logprobs(hidden, head, targets))
    got = torch.autograd.grad((found * weights).sum(), (hidden, head))
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("wrong", [-100, 50, 10**8])
def test_a_target_outside_of_the_vocabulary_is_refused(wrong):
    hidden, head, targets = inputs(8)
    targets[5] = wrong
    with pytest.raises((IndexError, RuntimeError), match=r"out of bounds|expected 0 to 49"):
        linear_cross_entropy(hidden, head, targets)


def test_targets_of_another_layout_or_type():
    hidden, head, targets = inputs(8)
    expected = linear_cross_entropy(hidden, head, targets)
    strided = torch.stack([targets, targets + 1], dim=1).flatten()[::2]
    torch.testing.assert_close(linear_cross_entropy(hidden, head, strided), expected)


def test_without_gradients_none_are_made(monkeypatch):
    hidden, head, targets = inputs(8)
    weighted = []
    real = cross_entropy._logprobs

    def watched(logits, targets, weights, *others):
        weighted.append(weights is not None)
        return real(logits, targets, weights, *others)

    monkeypatch.setattr(cross_entropy, "_logprobs", watched)
    expected = linear_cross_entropy(hidden, head, targets).detach()
    with torch.no_grad():
        torch.testing.assert_close(linear_cross_entropy(hidden, head, targets), expected)
    assert weighted == [True, False]


def test_no_tokens_give_zero_loss_and_finite_gradients():
    hidden, head, targets = inputs(3)
    loss = linear_cross_entropy(hidden[:0], head, targets[:0])
    gradient = torch.autograd.grad(loss, head)[0]
    assert loss.item() == 0.0 and gradient.abs().max() == 0.0


def test_bf16_hidden_states_stay_close_to_fp32():
    hidden, head, targets = inputs(64, torch.bfloat16)
    exact = -reference_logprobs(hidden.float(), head, targets).sum()
    assert abs(linear_cross_entropy(hidden, head, targets, 16) - exact) / exact < 0.01


@pytest.mark.parametrize("chunk", [1, 8, 1000])
@pytest.mark.parametrize("z", [1e-4, 0.3])
def test_the_z_loss_matches_the_reference(z, chunk):
    """0.3 is far from any sensible weight: what z adds stands out from rounding."""
    hidden, head, targets = inputs(20)
    likelihood = -reference_logprobs(hidden, head, targets).sum()
    squares = z * reference_normalizers(hidden, head).square().sum()
    wanted = torch.autograd.grad(3.0 * (likelihood + squares), (hidden, head))
    loss, part = regularised_cross_entropy(hidden, head, targets, z, chunk)
    torch.testing.assert_close(loss, likelihood + squares)
    torch.testing.assert_close(part, squares.detach())
    assert not part.requires_grad
    got = torch.autograd.grad(3.0 * loss, (hidden, head))
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_without_a_weight_the_z_loss_leaves_the_bits_alone():
    hidden, head, targets = inputs(20)
    plain = linear_cross_entropy(hidden, head, targets)
    loss, part = regularised_cross_entropy(hidden, head, targets, 0.0)
    assert torch.equal(loss, plain) and part.item() == 0.0
    with_z = torch.autograd.grad(loss, (hidden, head))
    for a, b in zip(with_z, torch.autograd.grad(plain, (hidden, head)), strict=True):
        assert torch.equal(a, b)


def test_products_have_few_sizes_whatever_the_number_of_tokens() -> None:
    """A CPU's library for bf16 keeps a program for each size: fine-tuning would fill the memory."""
    sizes = {
        rows.shape[0]
        for tokens in range(1, 5000, 37)
        for _, rows in cross_entropy.chunks(torch.zeros(tokens, 2), 2048)
    }
    assert sizes == {2048, 1024, 512, 256, 128, 64}


@pytest.mark.parametrize("tokens", [1, 63, 65, 200, 333])
def test_rows_of_zeros_behind_the_last_part_count_for_nothing(tokens: int) -> None:
    torch.manual_seed(0)
    hidden, head = torch.randn(tokens, 16, requires_grad=True), torch.randn(50, 16, requires_grad=True)
    targets = torch.randint(0, 50, (tokens,))
    plain = -cross_entropy.reference_logprobs(hidden, head, targets).sum()
    wanted = torch.autograd.grad(plain, (hidden, head))
    summed = cross_entropy.linear_cross_entropy(hidden, head, targets, chunk=128)
    each = cross_entropy.token_logprobs(hidden, head, targets, chunk=128)
    for loss in (summed, -each.sum()):
        for found, expected in zip(torch.autograd.grad(loss, (hidden, head)), wanted, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


class Meeting:
    """Threads that stand in for processes, and hand each other tensors."""

    def __init__(self, count: int) -> None:
        self._barrier, self._brought = Barrier(count, timeout=60), [torch.empty(0)] * count

    def exchange(self, place: int, tensor: Tensor) -> list[Tensor]:
        self._brought[place] = tensor.detach().clone()
        self._barrier.wait()
        found = list(self._brought)
        self._barrier.wait()
        return found


@dataclass
class Part:
    """`base.seams.Words`: rows `first` and on of a head, in one of the threads."""

    meeting: Meeting
    place: int
    first: int
    most: int = 50

    def gathered(self, tensor: Tensor) -> Tensor:
        return torch.stack(self.meeting.exchange(self.place, tensor))

    def add_up(self, tensor: Tensor) -> Tensor:
        return tensor.copy_(torch.stack(self.meeting.exchange(self.place, tensor)).sum(0))

    def whole(self, head: Tensor) -> Tensor:
        raise NotImplementedError


Loss = Callable[[Tensor, Tensor, Tensor, Part | None], Tensor]


def shared(loss: Loss, sizes: list[int], n: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Loss, and gradients of hidden states and of the own rows of the head, of each of several threads."""
    meeting, ends = Meeting(len(sizes)), list(accumulate(sizes))

    def work(place: int) -> tuple[Tensor, Tensor, Tensor]:
        hidden, head, targets = inputs(n)
        own = head.detach()[ends[place] - sizes[place] : ends[place]].requires_grad_()
        found = loss(hidden, own, targets, Part(meeting, place, ends[place] - sizes[place]))
        of_hidden, of_head = torch.autograd.grad(found, (hidden, own))
        return found.detach(), of_hidden, of_head

    with ThreadPoolExecutor(len(sizes)) as pool:
        return list(pool.map(work, range(len(sizes))))


LOSSES: dict[str, Loss] = {
    "sum": lambda h, w, t, words: regularised_cross_entropy(h, w, t, 0.0, 8, words)[0],
    "sum, chunks by size": lambda h, w, t, words: regularised_cross_entropy(h, w, t, 0.0, None, words)[0],
    "sum, z-loss": lambda h, w, t, words: regularised_cross_entropy(h, w, t, 0.3, 8, words)[0],
    "tokens": lambda h, w, t, words: token_logprobs(h, w, t, 8, words) @ torch.linspace(-1, 2, len(t)),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("sizes", [[25, 25], [26, 24], [1, 48, 1], [50]])
@pytest.mark.parametrize("n", [1, 20, 100])
def test_a_head_that_is_shared_out_by_words_gives_what_a_whole_one_does(name, sizes, n):
    hidden, head, targets = inputs(n)
    expected = LOSSES[name](hidden, head, targets, None)
    d_hidden, d_head = torch.autograd.grad(expected, (hidden, head))
    found = shared(LOSSES[name], sizes, n)
    for loss, of_hidden, _ in found:
        assert torch.equal(loss, found[0][0])
        torch.testing.assert_close(loss, expected.detach())
        torch.testing.assert_close(of_hidden, d_hidden, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.cat([of_head for *_, of_head in found]), d_head, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [1e3, 1e30])
def test_logits_far_apart_stay_finite_where_words_are_shared_out(size):
    """A token's largest logit lies with another process than its target's."""
    hidden = torch.full((1, 1), size)
    head, targets = torch.tensor([[-1.0], [0.0], [1.0], [0.5]]), torch.tensor([0])
    meeting = Meeting(2)

    def work(place: int) -> float:
        rows = head[2 * place : 2 * place + 2]
        return float(token_logprobs(hidden, rows, targets, words=Part(meeting, place, 2 * place)))

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(work, range(2))) == pytest.approx([-2 * size] * 2)


@pytest.mark.parametrize("wrong", [-100, 50, 10**8])
def test_a_target_outside_of_a_vocabulary_that_is_shared_out_is_no_loss(wrong):
    def loss(hidden: Tensor, head: Tensor, targets: Tensor, words: Part | None) -> Tensor:
        return LOSSES["sum"](hidden, head, targets.index_fill(0, torch.tensor([5]), wrong), words)

    assert [float(found) for found, *_ in shared(loss, [25, 25], 8)] == [float("inf")] * 2
