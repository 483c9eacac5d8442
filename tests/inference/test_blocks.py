"""Who owns which block of the cache: plain Python, tested without a model."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.inference.blocks import SIZE, BlockPool, blocks_for

LONG = list(range(3 * SIZE + 5))


def fill(pool: BlockPool, tokens: list[int], adapter: str | None = None) -> list[int]:
    """What a sequence does that reads `tokens`: its blocks, the full ones known."""
    prefix = pool.find(tokens, adapter)
    blocks, node = list(prefix.blocks), prefix.node
    while len(blocks) < blocks_for(len(tokens)):
        block = pool.allocate()
        assert block is not None
        blocks.append(block)
    for number in range(len(prefix.blocks), len(tokens) // SIZE):
        node = pool.register(blocks[number], node, tokens[number * SIZE : (number + 1) * SIZE])
    return blocks


def test_a_prefix_is_shared_and_its_rest_is_not():
    pool = BlockPool(16)
    first = fill(pool, LONG)
    second = fill(pool, LONG)
    assert second[:3] == first[:3] and second[3] != first[3]
    assert pool.used == 5
    pool.release(reversed(first))
    assert pool.used == 4 and fill(pool, LONG)[:3] == first[:3]


def test_the_last_token_is_always_left_to_compute():
    pool = BlockPool(16)
    pool.release(fill(pool, LONG[: 2 * SIZE]))
    assert len(pool.find(LONG[: 2 * SIZE]).blocks) == 1
    assert len(pool.find(LONG[: 2 * SIZE + 1]).blocks) == 2


def test_equal_tokens_behind_another_beginning_are_another_prefix():
    pool = BlockPool(16)
    fill(pool, LONG)
    other = [9999, *LONG[1:]]
    assert pool.find(other).blocks == []
    assert pool.find(LONG[SIZE:]).blocks == []


def test_adapters_do_not_share():
    pool = BlockPool(16)
    fill(pool, LONG, "pirate")
    assert pool.find(LONG).blocks == [] and len(pool.find(LONG, "pirate").blocks) == 3


def test_salts_do_not_share():
    pool = BlockPool(16)
    fill(pool, LONG)
    assert pool.find(LONG, None, "another").blocks == [] and len(pool.find(LONG, None, "").blocks) == 3


def test_an_adapter_of_the_same_name_is_another():
    pool = BlockPool(16)
    pool.release(fill(pool, LONG, "pirate"))
    pool.forget_adapter("pirate")
    assert pool.find(LONG, "pirate").blocks == []


def test_memory_comes_from_the_longest_unused_prefix():
    pool = BlockPool(8)
    old, new = LONG, [token + 1000 for token in LONG]
    pool.release(reversed(fill(pool, old)))
    pool.release(reversed(fill(pool, new)))
    taken = [pool.allocate() for _ in range(5)]
    assert None not in taken
    assert pool.find(old).blocks == [] and len(pool.find(new).blocks) == 3


def test_nothing_is_left_when_all_blocks_are_in_use():
    pool = BlockPool(2)
    fill(pool, LONG[: SIZE + 1])
    assert pool.available == 0 and pool.allocate() is None


def test_forgotten_prefixes_are_not_found():
    pool = BlockPool(8)
    pool.release(fill(pool, LONG))
    pool.forget()
    assert pool.find(LONG).blocks == [] and pool.available == 8


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4 * SIZE), st.booleans()), max_size=40))
@settings(deadline=None)
def test_no_block_is_lost_or_given_twice(events: list[tuple[int, int, bool]]):
    """Random sequences with common beginnings come and go; at the end everything is free again."""
    pool = BlockPool(64)
    living: list[tuple[list[int], list[int]]] = []
    for family, length, leaves in events:
        tokens = [family * 10_000 + n for n in range(length)]
        if blocks_for(length) <= pool.available:
            living.append((tokens, fill(pool, tokens)))
        # A block has several owners only where their tokens up to its end are the same.
        owners: dict[int, set[tuple[int, ...]]] = {}
        for held, blocks in living:
            for number, block in enumerate(blocks):
                owners.setdefault(block, set()).add(tuple(held[: (number + 1) * SIZE]))
        assert all(len(prefixes) == 1 for prefixes in owners.values())
        assert pool.used == len(owners)
        if leaves and living:
            pool.release(reversed(living.pop(0)[1]))
    for _, blocks in living:
        pool.release(reversed(blocks))
    assert pool.used == 0
    everything = Counter(pool.allocate() for _ in range(64))
    assert set(everything) == set(range(64)) and pool.allocate() is None
