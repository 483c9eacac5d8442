"""Who computes what, step by step: plain Python, tested without a model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.base.schema import Sampling
from modelwright.inference.blocks import SIZE, BlockPool, Prefix
from modelwright.inference.scheduler import Chunk, Scheduler, Sequence


def sequence(number: int, length: int = 3, limit: int = 5) -> Sequence:
    return Sequence(number, tuple(range(length)), Sampling(), 0, frozenset({-1}), limit)


def scheduler_of(
    *lengths: int, blocks: int = 64, slots: int = 8, step: int = 16, limit: int = 5
) -> Scheduler:
    scheduler = Scheduler(BlockPool(blocks), slots, step)
    for number, length in enumerate(lengths):
        scheduler.add(sequence(number, length, limit))
    return scheduler


def finish(scheduler: Scheduler, chunks: list[Chunk], token: int) -> None:
    """What the engine does once a step is computed, everybody drawing `token`."""
    drawing = [chunk.sequence for chunk in chunks if chunk.draws]
    for chunk in chunks:
        scheduler.computed(chunk)
    for each in drawing:
        each.accept(token, 0.0)
        if each.finish_reason is not None:
            scheduler.remove(each)


def turn(scheduler: Scheduler, token: int = 7) -> list[tuple[int, int, int]]:
    """One step as the engine takes it, everybody drawing `token`: (id, start, count) of each chunk."""
    chunks = scheduler.plan()
    assert sum(chunk.count for chunk in chunks) <= scheduler.step_tokens
    finish(scheduler, chunks, token)
    return [(chunk.sequence.id, chunk.start, chunk.count) for chunk in chunks]


def test_first_come_first_served():
    scheduler = scheduler_of(3, 3, 3, slots=2)
    assert turn(scheduler) == [(0, 0, 3), (1, 0, 3)]
    assert [waiting.id for waiting in scheduler.waiting] == [2]


def test_a_long_prompt_is_read_in_pieces_and_holds_up_nobody():
    scheduler = scheduler_of(3, 40)
    assert turn(scheduler) == [(0, 0, 3), (1, 0, 13)]
    assert turn(scheduler) == [(0, 3, 1), (1, 13, 15)]
    assert turn(scheduler) == [(0, 4, 1), (1, 28, 12)]
    assert turn(scheduler) == [(0, 5, 1), (1, 40, 1)]


def test_who_decodes_comes_before_who_reads():
    scheduler = scheduler_of(40, 3)
    turn(scheduler)
    scheduler.running.reverse()
    turn(scheduler)
    turn(scheduler)
    assert next(iter(scheduler.plan())).sequence.id == 0


def test_a_prompt_that_was_read_before_is_not_read_again():
    scheduler = scheduler_of(2 * SIZE + 3, 2 * SIZE + 3, step=256, slots=1, limit=1)
    assert turn(scheduler) == [(0, 0, 2 * SIZE + 3)]
    assert turn(scheduler) == [(1, 2 * SIZE, 3)]
    assert (scheduler.prefix_queries, scheduler.prefix_hits) == (4 * SIZE + 6, 2 * SIZE)


def test_of_equal_prompts_one_is_read_and_the_others_follow():
    scheduler = scheduler_of(2 * SIZE + 3, 2 * SIZE + 3, 2 * SIZE + 3, step=256)
    assert turn(scheduler) == [(0, 0, 2 * SIZE + 3)]
    assert turn(scheduler) == [(0, 2 * SIZE + 3, 1), (1, 2 * SIZE, 3), (2, 2 * SIZE, 3)]


def test_who_follows_waits_only_for_what_is_shared_and_keeps_its_place_and_slot():
    scheduler = scheduler_of(6 * SIZE, 5 * SIZE, 3, 3, slots=3, step=2 * SIZE)
    scheduler.waiting[1].prompt = (*range(SIZE), *[9999] * 4 * SIZE)  # shares a block with the first
    scheduler.waiting[1].tokens = [*scheduler.waiting[1].prompt]
    for late in list(scheduler.waiting)[2:]:
        late.prompt, late.tokens = (7, 7, 7), [7, 7, 7]
    assert turn(scheduler) == [(0, 0, 2 * SIZE)]
    scheduler.step_tokens = 3 * SIZE
    assert turn(scheduler) == [(0, 2 * SIZE, 3 * SIZE)]
    scheduler.step_tokens = 8 * SIZE
    assert turn(scheduler) == [(0, 5 * SIZE, SIZE), (1, SIZE, 4 * SIZE), (2, 0, 3)]
    assert [waiting.id for waiting in scheduler.waiting] == [3]


def test_others_pass_who_follows():
    scheduler = scheduler_of(2 * SIZE + 1, 2 * SIZE + 1, 3, 3, slots=3, step=256)
    for late in list(scheduler.waiting)[2:]:
        late.prompt, late.tokens = (7, 7, 7), [7, 7, 7]
    assert turn(scheduler) == [(0, 0, 2 * SIZE + 1), (2, 0, 3)], "the third slot is kept for who follows"
    assert turn(scheduler) == [(0, 2 * SIZE + 1, 1), (2, 3, 1), (1, 2 * SIZE, 1)]


def test_salts_do_not_share_and_do_not_follow():
    scheduler = scheduler_of(2 * SIZE + 3, 2 * SIZE + 3, 2 * SIZE + 3, step=256)
    scheduler.waiting[1].salt = "another"
    assert turn(scheduler) == [(0, 0, 2 * SIZE + 3), (1, 0, 2 * SIZE + 3)]
    assert turn(scheduler)[2] == (2, 2 * SIZE, 3)


def test_who_finds_no_room_is_not_looked_up_in_every_step():
    scheduler = scheduler_of(SIZE - 8, 2 * SIZE, blocks=2, step=256, limit=8)
    looked_up: list[int] = []
    find = scheduler.pool.find

    def counted(tokens: Iterable[int], *more: Any) -> Prefix:
        looked_up.append(len([*tokens]))
        return find([*tokens], *more)

    scheduler.pool.find = counted  # type: ignore[method-assign]
    for _ in range(8):
        turn(scheduler)
    assert looked_up == [SIZE - 8, 2 * SIZE] and not scheduler.running
    turn(scheduler)
    assert looked_up[2:] == [2 * SIZE] and scheduler.running[0].id == 1


def test_who_came_last_gives_way_when_the_cache_is_full_and_loses_nothing():
    scheduler = scheduler_of(SIZE - 1, SIZE - 1, blocks=3, step=256, limit=SIZE + 5)
    scheduler.waiting[1].prompt, scheduler.waiting[1].tokens = (5,) * 31, [5] * 31  # shares nothing
    for _ in range(3):
        turn(scheduler)
    assert scheduler.preemptions == 1 and [s.id for s in scheduler.running] == [0]
    victim = scheduler.waiting[0]
    drawn = list(victim.ids)
    assert victim.id == 1 and drawn and not victim.blocks
    while scheduler.busy:
        turn(scheduler)
    assert victim.finish_reason == "length" and victim.ids[: len(drawn)] == drawn
    assert len(victim.ids) == SIZE + 5 and scheduler.pool.used == 0


def test_who_waits_leaves_without_a_trace():
    scheduler = scheduler_of(3, 3, slots=1)
    turn(scheduler)
    scheduler.remove(scheduler.waiting[0])
    assert not scheduler.waiting and scheduler.pool.used == 1


@given(
    st.lists(st.tuples(st.integers(1, 3 * SIZE), st.integers(1, 2 * SIZE)), min_size=1, max_size=12),
    st.integers(6, 20),
    st.integers(1, 6),
    st.integers(6, 80),
)
@settings(deadline=None, max_examples=60)
def test_everybody_is_served_whole_whatever_the_crowd(
    requests: list[tuple[int, int]], blocks: int, slots: int, step: int
):
    """Each token is computed at its own place before the next is drawn, and no block is left behind."""
    scheduler = Scheduler(BlockPool(blocks), slots, step)
    everybody = [sequence(n, length, limit) for n, (length, limit) in enumerate(requests)]
    for each in everybody:
        scheduler.add(each)
    for count in range(20_000):
        if not scheduler.busy:
            break
        chunks = scheduler.plan()
        assert chunks, "a step that does nothing would be repeated for ever"
        for chunk in chunks:
            assert chunk.start == chunk.sequence.computed and chunk.count > 0
            assert len(chunk.sequence.blocks) * SIZE >= chunk.start + chunk.count
        finish(scheduler, chunks, count)
    assert all(len(each.ids) == limit for each, (_, limit) in zip(everybody, requests, strict=True))
    assert scheduler.pool.used == 0


def test_nobody_gives_way_to_a_guess():
    """Two who decode, each at the end of a block, and three blocks: the one that is left is the second's."""
    scheduler = scheduler_of(SIZE - 2, SIZE - 1, blocks=3, step=128, limit=40)
    turn(scheduler)
    turn(scheduler)
    first, second = scheduler.running
    assert first.length == SIZE and second.length == SIZE + 1
    chunks = scheduler.plan({first: [7, 7, 7], second: [7, 7]})
    assert scheduler.preemptions == 0
    assert [(chunk.sequence.id, chunk.guesses) for chunk in chunks] == [(0, ()), (1, (7, 7))]
    assert len(first.blocks) == 1 and len(second.blocks) == 2
