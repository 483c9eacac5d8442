"""Which blocks of the key-value cache belong to whom. Plain Python: no tensor is touched here.

The cache is cut into blocks of 32 positions (paged attention, arXiv 2309.06180). A block that is full is
known by what it holds: its tokens and all before them. Whoever begins with the same tokens shares it, and
nobody writes to it again. A block that nobody uses any more stays known until its memory is needed, the
longest unused first.

Blocks are looked up by the tokens themselves and not by a hash of them, so that no two prefixes can be mixed
up.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count

SIZE = 32
"""Positions in a block."""


def blocks_for(tokens: int) -> int:
    """How many blocks hold that many positions."""
    return -(-tokens // SIZE)


Node = int | tuple[str | None, int, str]
"""All tokens up to a block's end, as a number. Before the first block: the adapter, how often one of that
name was replaced, and the salt."""
Key = tuple[Node, tuple[int, ...]]
"""What a full block holds: its tokens, behind a node."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """What a sequence found in the cache: blocks, held for it, and the name of their content."""

    blocks: list[int]
    node: Node
    missing: Key | None
    """The full block that it looked for next and did not find; None where there was nothing to look for."""


class BlockPool:
    """Counts who uses each of `total` blocks, and knows what the full ones hold."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._users = [0] * total
        self._free = list(range(total - 1, -1, -1))
        """Blocks that hold nothing worth keeping; the last one is taken next."""
        self._idle: OrderedDict[int, None] = OrderedDict()
        """Known blocks that nobody uses, the longest unused first."""
        self._known: dict[Key, tuple[int, int]] = {}
        """What a block holds -> (block, node at its end)."""
        self._key_of: dict[int, Key] = {}
        self._replaced: Counter[str | None] = Counter()
        """How often an adapter of that name was taken away."""
        self._nodes = count()

    @property
    def available(self) -> int:
        """Blocks that can be had."""
        return len(self._free) + len(self._idle)

    @property
    def used(self) -> int:
        """Blocks that somebody uses."""
        return self.total - self.available

    def find(self, tokens: Sequence[int], adapter: str | None = None, salt: str = "") -> Prefix:
        """Hold the known blocks that `tokens` begin with; at least the last token is left to be computed.
        Keys and values depend on the adapter too, so prefixes are shared among its users alone; and among
        those with the same `salt`, since who finds a prefix learns that somebody has sent it."""
        node: Node = self.root(adapter, salt)
        missing: Key | None = None
        blocks: list[int] = []
        for start in range(0, (len(tokens) - 1) // SIZE * SIZE, SIZE):
            key = node, tuple(tokens[start : start + SIZE])
            found = self._known.get(key)
            if found is None:
                missing = key
                break
            block, node = found
            blocks.append(block)
        for block in blocks:
            self._idle.pop(block, None)
            self._users[block] += 1
        return Prefix(blocks, node, missing)

    def knows(self, key: Key) -> bool:
        """Whether a block holds this."""
        return key in self._known

    def root(self, adapter: str | None, salt: str = "") -> Node:
        """The node of nothing at all, before the first token."""
        return adapter, self._replaced[adapter], salt

    def allocate(self) -> int | None:
        """A block for one user, or None when all are in use."""
        if self._free:
            block = self._free.pop()
        elif self._idle:
            block, _ = self._idle.popitem(last=False)
            del self._known[self._key_of.pop(block)]
        else:
            return None
        self._users[block] = 1
        return block

    def register(self, block: int, node: Node, tokens: Sequence[int]) -> int:
        """Make known that `block` is full of `tokens`, which follow `node`; the node at its end. Where
        another block is known to hold the same, that one stays the known one."""
        key = (node, tuple(tokens))
        if key in self._known:
            return self._known[key][1]
        following = next(self._nodes)
        self._known[key], self._key_of[block] = (block, following), key
        return following

    def release(self, blocks: Iterable[int]) -> None:
        """One user less for each. Of a sequence, the last first: what is looked up last is dropped first."""
        for block in blocks:
            self._users[block] -= 1
            assert self._users[block] >= 0, f"block {block} was released too often"
            if self._users[block] == 0:
                if block in self._key_of:
                    self._idle[block] = None
                else:
                    self._free.append(block)

    def forget_adapter(self, adapter: str) -> None:
        """What was computed with an adapter of that name is not found any more."""
        self._replaced[adapter] += 1

    def forget(self) -> None:
        """Drop all knowledge: the weights have changed, and what blocks hold is of the old ones."""
        self._free.extend(self._idle)
        self._idle.clear()
        self._known.clear()
        self._key_of.clear()
