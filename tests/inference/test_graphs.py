"""Recorded decoding steps, without a GPU: a tape that repeats operations on the tensors they were recorded
with stands for CUDA's graphs, and shows whatever a recording would have frozen."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from modelwright.inference import graphs
from modelwright.inference.blocks import blocks_for
from modelwright.inference.graphs import GraphRunner, padded_blocks, padded_rows
from modelwright.inference.runner import Piece, PlainRunner
from modelwright.model.adapters import Adapter, AdapterSet, LowRank
from modelwright.model.transformer import Transformer

aten = torch.ops.aten
WAITS = (aten._local_scalar_dense.default, aten.nonzero.default, aten.equal.default)
"""Operations that bring numbers from the GPU to Python, which no graph can hold."""


class Tape(TorchDispatchMode):
    """Notes operations with the very tensors that they took and gave."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in WAITS, f"{func} cannot be recorded"
        given = func(*args, **(kwargs or {}))
        self.notes.append((func, args, kwargs or {}, given))
        return given

    def play(self) -> None:
        """Do them again; what they give goes where it went at first."""
        for func, args, kwargs, given in self.notes:
            for old, new in zip(tree_leaves(given), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def taped(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """A `Record` for CPUs."""
    tape = Tape()
    with tape:
        output = call()

    def replay() -> Tensor:
        tape.play()
        return output

    return replay


def eager(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """A `Record` that does everything anew, by the same operations."""

    def anew() -> Tensor:
        with Tape():
            return call()

    return anew


BLOCKS = 40


class Crowd:
    """Sequences that grow by random tokens, with blocks in a random order."""

    def __init__(self, lengths: Sequence[int], seed: int) -> None:
        self.draw = random.Random(seed)
        free = self.draw.sample(range(BLOCKS), BLOCKS)
        self.blocks = [[free.pop() for _ in range(5)] for _ in lengths]
        self.lengths = list(lengths)

    def prompts(self) -> list[Piece]:
        return [
            Piece(self.ids(length), 0, blocks[: blocks_for(length)], 1)
            for length, blocks in zip(self.lengths, self.blocks, strict=True)
        ]

    def steps(self, count: int) -> list[list[Piece]]:
        """In each step some of them decode, in any order."""
        found: list[list[Piece]] = []
        for _ in range(count):
            who = self.draw.sample(range(len(self.lengths)), self.draw.randint(1, len(self.lengths)))
            found.append([Piece(self.ids(1), self.lengths[n], self.blocks[n], 1) for n in who])
            for n in who:
                self.lengths[n] += 1
        return found

    def ids(self, count: int) -> list[int]:
        return [self.draw.randrange(320) for _ in range(count)]


@pytest.mark.parametrize("cache", ["auto", "int8"])
@pytest.mark.parametrize("architecture", ["qwen3", "mistral"])
def test_replays_with_other_blocks_equal_eager_steps_bit_for_bit(make_model, architecture, cache):
    model = make_model(architecture)
    if architecture == "mistral":
        model.config = model.config.model_copy(update={"sliding_window": 20})
    recorded, anew = (GraphRunner(model, BLOCKS, cache, record=record) for record in (taped, eager))
    plain = PlainRunner(model, BLOCKS, cache)
    crowd = Crowd([1, 30, 31, 64, 5], seed=3)
    runners: list[Any] = [recorded, anew, plain]
    tolerance = 2e-3 if cache == "int8" else 3e-5  # a level at a midpoint may round either way
    for pieces in [crowd.prompts(), *crowd.steps(40)]:
        first, second, third = (runner.logits(pieces) for runner in runners)
        assert torch.equal(first, second)
        torch.testing.assert_close(first, third, rtol=1e-5, atol=tolerance)
    assert len(recorded._steps) >= 4


def test_padding_rows_touch_no_block_that_somebody_owns(make_model):
    runner = GraphRunner(make_model(), BLOCKS, record=taped)
    crowd = Crowd([7, 40, 12], seed=1)
    runner.logits(crowd.prompts())
    before = runner._cache.keys.clone()
    starts = zip(crowd.lengths, crowd.blocks, strict=True)
    pieces = [Piece([5], length, blocks, 1) for length, blocks in starts]
    runner.logits(pieces)
    changed = (runner._cache.keys != before).any(-1).any(2).any(0).nonzero().tolist()
    owned = {(crowd.blocks[0][0], 7), (crowd.blocks[1][1], 8), (crowd.blocks[2][0], 12)}
    assert {tuple(place) for place in changed} - {(BLOCKS, 0)} == owned


def test_an_emptied_cache_and_new_weights_are_those_of_the_recordings(make_model):
    model, other = make_model(seed=1), make_model(seed=2)
    wanted = copy.deepcopy(other.state_dict())
    recorded, plain = GraphRunner(model, BLOCKS, record=taped), PlainRunner(other, BLOCKS)
    crowd = Crowd([9, 33], seed=2)
    for pieces in [crowd.prompts(), *crowd.steps(3)]:
        recorded.logits(pieces)
    recorded.load(wanted)
    crowd = Crowd([9, 33], seed=5)
    for pieces in [crowd.prompts(), *crowd.steps(6)]:
        torch.testing.assert_close(recorded.logits(pieces), plain.logits(pieces), rtol=1e-5, atol=3e-5)


def test_prompts_and_adapters_go_the_plain_way(make_model):
    model = make_model()
    adapters = AdapterSet(model)
    change = LowRank(torch.randn(2, 32), torch.randn(32, 2), 1.0)
    adapters.add("voice", Adapter({"model.layers.0.self_attn.q_proj": change}))
    runner = GraphRunner(model, BLOCKS, adapters=adapters, record=taped)
    plain = PlainRunner(model, BLOCKS, adapters=adapters)
    pieces = [Piece([4, 5, 6], 0, [3], 1, adapter="voice"), Piece([4], 0, [2], 1)]
    assert torch.equal(runner.logits(pieces[:1]), plain.logits(pieces[:1]))
    step = [Piece([9], 3, [3], 1, adapter="voice"), Piece([7], 1, [2], 1)]
    assert torch.equal(runner.logits(step), plain.logits(step)) and not runner._steps
    runner.logits(step[1:])
    assert list(runner._steps) == [(1, 1)]


def test_only_so_many_recordings_are_kept_and_the_longest_unused_goes(make_model, monkeypatch):
    monkeypatch.setattr(graphs, "MOST_STEPS", 2)
    runner = GraphRunner(make_model(), BLOCKS, record=eager)
    for rows, kept in ((1, [1]), (2, [1, 2]), (1, [2, 1]), (3, [1, 4]), (1, [4, 1]), (2, [1, 2])):
        runner.logits([Piece([5], 0, [n], 1) for n in range(rows)])
        assert list(runner._steps) == [(size, 1) for size in kept]


def test_sizes_hold_what_they_are_for():
    assert [padded_rows(n) for n in (1, 2, 3, 5, 8, 9, 17, 256)] == [1, 2, 4, 8, 8, 16, 32, 256]
    assert [padded_blocks(n) for n in (1, 2, 3, 5, 64)] == [1, 2, 4, 8, 64]


def test_only_cuda_and_fixed_shapes_are_recorded(make_model):
    assert not graphs.serves(make_model())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU is at hand")
def test_cuda_graphs_equal_the_plain_runner(make_model):  # pragma: no cover - on a GPU
    model: Transformer = make_model().cuda()
    recorded, plain = GraphRunner(model, BLOCKS), PlainRunner(model, BLOCKS)
    crowd = Crowd([1, 30, 31, 64, 5], seed=3)
    for pieces in [crowd.prompts(), *crowd.steps(40)]:
        torch.testing.assert_close(recorded.logits(pieces), plain.logits(pieces), rtol=1e-3, atol=1e-3)
