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
from modelwright.training.batches import MULTIPLE, Example, Grouped, Mixture, Packed, Pairs, Windows, padded


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
    assert len(packed.without_target) == len(made) - len(supervised)
    assert len(packed.too_long) == len(supervised) - len(fitting)
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


def shown(batches, index):
    """The examples of a micro-batch, as their inputs."""
    batch = batches[index]
    rows = batch.ids if batch.segments is None else torch.where(batch.segments < 0, 0, batch.ids)
    segments = torch.zeros_like(rows) if batch.segments is None else batch.segments
    for ids, numbers in zip(rows, segments, strict=True):
        for number in numbers[numbers >= 0].unique().tolist():
            yield tuple(id for id in ids[numbers == number].tolist() if id)


@given(epochs=st.floats(0.05, 3), count=st.integers(1, 60), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_a_part_of_an_epoch_shows_that_part_of_the_examples(epochs, count, seed):
    """What is whole comes as without it; the rest shows nothing twice."""
    made = [Example([n + 1, n + 2, n + 3], [True] * 3) for n in range(count)]
    for kind, rows in ((Packed, 1), (Grouped, 1), (Grouped, 4)):
        batches = kind(made, rows=rows, length=2, seed=seed, padding=0, epochs=epochs)
        seen = [member for row in range(len(batches) * rows) for member in batches.members(row)]
        whole = kind(made, rows=rows, length=2, seed=seed, padding=0, epochs=int(epochs) or 1)
        begun = [member for row in range(len(whole) * rows) for member in whole.members(row)]
        rest = seen[int(epochs) * count :]
        assert seen[: len(begun)] == begun[: len(seen)] and len(set(rest)) == len(rest)
        assert len(rest) >= (epochs > int(epochs))
        assert abs(len(rest) - (epochs - int(epochs)) * count) <= max(1, 0.5 + 1.5 * rows)


@pytest.mark.parametrize("make", [Packed, Grouped])
def test_every_epoch_shows_each_example_once_in_an_order_of_its_own(make):
    made = examples([4 + n % 13 for n in range(45)], seed=3)
    kept = make(made, rows=4, length=24, seed=1, padding=0).kept
    wanted = sorted(tuple(made[place].ids[:-1]) for place in kept)
    whole = make(made, rows=4, length=24, seed=1, padding=0, epochs=3)
    rows = [list(shown(whole, index)) for index in range(len(whole))]
    flat, size = [each for row in rows for each in row], len(kept)
    epochs = [flat[start : start + size] for start in range(0, 3 * size, size)]
    assert [sorted(epoch) for epoch in epochs] == [wanted] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3
    again = make(made, rows=4, length=24, seed=1, padding=0, epochs=3)
    assert all(torch.equal(whole[i].ids, again[i].ids) for i in range(len(whole)))
    other = make(made, rows=4, length=24, seed=2, padding=0, epochs=3)
    assert any(
        whole[i].ids.shape != other[i].ids.shape or (whole[i].ids != other[i].ids).any()
        for i in range(len(whole))
    )
    members = [place for row in range(4 * len(whole)) for place in whole.members(row)]
    assert [tuple(made[place].ids[:-1]) for place in members] == flat


def test_a_group_is_alike_in_length_and_little_is_padding():
    made = examples([3 + 17 * n % 200 for n in range(200)], seed=1)
    grouped = Grouped(made, rows=8, length=256, seed=1, padding=0, epochs=2)
    lengths = [grouped[index].ids.shape[1] for index in range(len(grouped))]
    assert all(length % MULTIPLE == 0 for length in lengths) and lengths != sorted(lengths)
    sizes = [[len(ids) for ids in shown(grouped, index)] for index in range(len(grouped))]
    assert all(max(each) - min(each) <= 8 for each in sizes)
    assert grouped.num_positions == sum(grouped[index].ids.numel() for index in range(len(grouped)))
    assert sum(map(sum, sizes)) > 0.8 * grouped.num_positions


def test_the_digest_is_of_what_is_learned_and_of_nothing_else():
    made = examples([9, 12, 5, 40, 7, 14])
    digest = Packed(made, rows=2, length=24, seed=1, padding=0).digest()
    assert digest == Grouped(made, rows=3, length=24, seed=5, padding=9, epochs=4).digest()
    assert digest == Packed([*made[:3], *made[4:]], rows=2, length=24, seed=1, padding=0).digest(), (
        "it is too long"
    )
    changed = Example(made[0].ids, [not each for each in made[0].mask])
    others = [[made[1], made[0], *made[2:]], [changed, *made[1:]], made[:-1]]
    assert len({digest, *(Packed(each, 2, 24, 1, 0).digest() for each in others)}) == 4
    pairs = [(made[0], made[1]), (made[2], made[4])]
    assert Pairs(pairs, 2, 1, padding=0).digest() == Pairs(pairs, 1, 3, padding=0).digest() != digest


@pytest.mark.parametrize("make", [Packed, Grouped])
def test_loss_and_gradients_equal_those_of_the_examples_alone(make):
    made = examples([9, 12, 5, 20, 7, 14])
    model, objective = make_model(), NextToken()
    packed = make(made, rows=2, length=24, seed=1, padding=0)

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
