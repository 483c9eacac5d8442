"""Views of data: nothing is lost, nothing leaks, and (seed, index) decides."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.training.tiny import Tokens, make_model, make_windows

from modelwright.base.errors import UserError
from modelwright.base.schema import IGNORE
from modelwright.objectives.next_token import NextToken
from modelwright.training.batches import Example, Mixture, Packed, Pairs, Windows, padded


def examples(sizes: list[int], seed: int = 0) -> list[Example]:
    random = np.random.default_rng(seed)
    return [
        Example(random.integers(1, 40, n).tolist(), [False, *(random.random(n - 1) < 0.6).tolist()])
        for n in sizes
    ]


def test_windows_show_every_position_once_an_epoch_and_differ_between_epochs():
    tokens = Tokens()
    tokens.ids = np.arange(len(tokens.ids))
    windows = Windows(tokens, rows=1, length=16, seed=3, end_of_text=-1)
    epochs = [
        torch.stack([windows[e * windows.windows + i].ids[0] for i in range(windows.windows)]) for e in (0, 1)
    ]
    for epoch in epochs:
        seen = epoch.flatten()
        assert len(seen.unique()) == len(seen) == windows.windows * 16
    assert not torch.equal(epochs[0], epochs[1])


def test_windows_are_a_function_of_seed_and_index():
    a, b, other = make_windows(), make_windows(), make_windows(seed=4)
    assert torch.equal(a[7].ids, b[7].ids)
    assert not torch.equal(a[7].ids, other[7].ids)


def test_windows_predict_the_next_token_and_number_the_documents():
    batch = make_windows(length=16)[0]
    assert torch.equal(batch.ids[:, 1:], batch.targets[:, :-1])
    for ids, segments in zip(batch.ids.tolist(), batch.segments.tolist(), strict=True):
        for i in range(1, 16):
            assert segments[i] - segments[i - 1] == (ids[i - 1] == 0)


def test_a_corpus_shorter_than_a_window_is_a_clear_error():
    with pytest.raises(UserError, match="too few"):
        make_windows(length=10_000)


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(2, 30), min_size=1, max_size=40),
    rows=st.integers(1, 4),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 5),
)
def test_packing_loses_no_token_and_invents_none(sizes, rows, epochs, seed):
    made = examples(sizes, seed)
    made[0] = Example([5, 6], [False, True])
    packed = Packed(made, rows, 24, seed, padding=0, epochs=epochs)
    supervised = [e for e in made if any(e.mask[1:])]
    fitting = [e for e in supervised if len(e.ids) <= 25]
    assert packed.without_target == len(made) - len(supervised)
    assert packed.too_long == len(supervised) - len(fitting)
    assert [made[index] for index in packed.kept] == fitting
    found = []
    for i in range(len(packed)):
        batch = packed[i]
        for ids, targets, segments in zip(batch.ids, batch.targets, batch.segments, strict=True):
            for segment in segments[segments >= 0].unique().tolist():
                here = segments == segment
                found.append((tuple(ids[here].tolist()), tuple(targets[here].tolist())))
    wanted = [
        (tuple(e.ids[:-1]), tuple(t if m else IGNORE for t, m in zip(e.ids[1:], e.mask[1:], strict=True)))
        for e in fitting
    ] * epochs
    assert sorted(found) == sorted(wanted)


def test_packed_loss_and_gradients_equal_those_of_the_examples_alone():
    made = examples([9, 12, 5, 20, 7, 14])
    model, objective = make_model(), NextToken()
    packed = Packed(made, rows=2, length=24, seed=1, padding=0)

    def total(batches):
        model.zero_grad()
        losses = [objective(model.on_batch(batch), batch)[0] for batch in batches]
        sum(losses).backward()
        return sum(losses).item(), [p.grad.clone() for p in model.parameters()]

    loss, gradients = total([packed[i] for i in range(len(packed))])
    alone, alone_gradients = total([padded([example], 0) for example in made])
    assert loss == pytest.approx(alone, rel=1e-5)
    for a, b in zip(gradients, alone_gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_editing_one_packed_document_leaves_the_others_bit_equal():
    model = make_model()
    batch = Packed(examples([10, 10]), rows=1, length=18, seed=1, padding=0)[0]
    first = batch.segments[0] == 0
    with torch.no_grad():
        before = model.on_batch(batch).logits()[0, ~first]
        batch.ids[0, first] = 7
        after = model.on_batch(batch).logits()[0, ~first]
    assert torch.equal(before, after)


def test_examples_without_a_target_are_refused():
    with pytest.raises(UserError, match="learn nothing"):
        Packed([Example([1, 2, 3], [False] * 3)], 1, 8, 0, padding=0)


def test_pairs_keep_their_references_through_shuffling():
    pairs = [(Example([i, 1, 2], [False, True, True]), Example([i, 3], [False, True])) for i in range(1, 12)]
    logps = torch.arange(22, dtype=torch.float32)
    made = Pairs(pairs, 4, seed=2, padding=0, reference_logps=logps, epochs=2)
    seen = []
    for i in range(len(made)):
        batch = made[i]
        for row in range(0, len(batch.ids), 2):
            number = int(batch.ids[row, 0])
            assert batch.ids[row + 1, 0] == number
            assert batch.extra["reference_logps"][row : row + 2].tolist() == [2 * number - 2, 2 * number - 1]
            seen.append(number)
    assert sorted(seen) == sorted([*range(1, 12)] * 2)


class Numbers:
    """A stream of `size` tokens, each its own number plus `first`."""

    def __init__(self, first: int, size: int) -> None:
        self._first, self._size = first, size

    def __len__(self) -> int:
        return self._size

    def read(self, start: int, length: int) -> np.ndarray:
        assert start >= 0 and start + length <= self._size
        return np.arange(self._first + start, self._first + start + length)


def test_a_mixture_reads_each_stream_on_in_its_own_order() -> None:
    streams = [Windows(Numbers(0, 330), 2, 8, 1, -1), None, Windows(Numbers(10_000, 90), 2, 8, 2, -1)]
    choice = np.array([0, 0, 2, 0] * 12, dtype=np.int16)
    mixture = Mixture(streams, choice, rows=4, end_of_text=-1)
    assert len(mixture) == 12
    rows = [row for index in range(12) for row in mixture[index].ids.tolist()]
    first, third = ([row for row, c in zip(rows, choice, strict=True) if c == chosen] for chosen in (0, 2))
    for stream, read in ((streams[0], first), (streams[2], third)):
        assert read == [stream.row(number)[:-1].tolist() for number in range(len(read))]
    assert len({tuple(row) for row in first}) == 36 and len({row[0] for row in third}) == 12
    for number, row in enumerate(rows):
        stream, place = mixture.start_of(number)
        assert stream == choice[number] and row[0] == (0, None, 10_000)[stream] + place
    assert mixture[7].ids.equal(Mixture(streams, choice, 4, -1)[7].ids)
