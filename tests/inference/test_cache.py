"""How much memory the key-value cache takes: as much as is written, and no more than the answers need."""

from __future__ import annotations

import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.base.resources import resident_bytes
from modelwright.base.schema import Sampling
from modelwright.inference.blocks import SIZE, blocks_for
from modelwright.inference.cache import blocks_of_cache, unwritten_zeros
from modelwright.inference.engine import Engine

MIB = 2**20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="nobody else says what is resident")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_zeros_take_room_as_they_are_written_and_leave_none_behind(dtype: torch.dtype) -> None:
    before = resident_bytes()
    pool = unwritten_zeros(4, 2**28 // dtype.itemsize, dtype=dtype)
    assert pool.dtype == dtype and resident_bytes() - before < 128 * MIB, "a GiB that nobody wrote"
    pool[1].fill_(1)
    held = resident_bytes()
    assert bool(pool[1, ::4096].all()) and not pool[::3, ::4096].any()  # few: malloc may keep what all take
    row = pool[1]
    del pool
    assert bool(row[::4096].all()), "a part of it keeps the whole alive"
    del row
    assert held - resident_bytes() > 192 * MIB, "of 256 that were written"


@settings(max_examples=15, deadline=None)
@given(slots=st.integers(1, 5), prompt=st.integers(1, 90), answer=st.integers(1, 40), seed=st.integers(0, 99))
def test_a_cache_for_answers_of_a_length_holds_back_nobody(
    slots: int, prompt: int, answer: int, seed: int, model, tokenizer
) -> None:
    """All slots run at once and none is read again, with the answers of a cache that is large."""
    rows = torch.randint(3, 320, (2 * slots, prompt), generator=torch.Generator().manual_seed(seed)).tolist()
    sampling = Sampling(max_tokens=answer, ignore_eos=True)
    found = []
    for usual in (prompt + answer, None):
        engine = Engine(model, tokenizer, max_slots=slots, usual_length=usual)
        requests = [engine.submit(row, sampling) for row in rows]
        busiest, done = 0, {}
        while len(done) < len(rows):
            done |= {delta.request: delta.completion for delta in engine.step() if delta.completion}
            busiest = max(busiest, engine.stats().running)
        assert engine.stats().preemptions == 0 and (busiest == slots or answer == 1)
        found.append([done[request].ids for request in requests])
    assert found[0] == found[1]


def test_what_is_usual_bounds_the_cache_and_one_long_sequence_always_fits(model) -> None:
    longest = model.config.max_position_embeddings
    assert blocks_of_cache(model, "auto", None, 50, longest, 40) == 50 * (blocks_for(40) + 1)
    assert blocks_of_cache(model, "auto", None, 1, longest, 40) == blocks_for(longest)
    for usual in (longest, 10 * longest, None):
        assert blocks_of_cache(model, "auto", None, 50, longest, usual) == 50 * blocks_for(longest)
    assert blocks_of_cache(model, "auto", 7 * SIZE, 50, longest, 40) == 7
