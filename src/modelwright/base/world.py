"""Who else works on this command: the processes that torchrun started, and how they speak to one another.

torchrun starts the same command n times and tells each by environment variables which one it is. The first
process (rank 0) prints, locks and writes; the others compute with it. Small things (settings, names, hashes)
travel as JSON through the store that torchrun brings; tensors travel by torch.distributed. Nothing here is
pickled. A process alone needs none of it and does not load torch for it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from importlib import import_module
from typing import Protocol, Self

from modelwright.base.errors import UserError
from modelwright.base.schema import Json

PATIENCE = timedelta(days=30)
"""How long a process waits for a word of another. A station that does not train runs on the first process
while the others wait; if one dies, torchrun ends them all, so nobody waits in vain."""
COLLECTIVE_PATIENCE = timedelta(minutes=30)
"""How long an exchange of tensors may take before torch.distributed gives it up."""


class Store(Protocol):
    """What is asked of torch.distributed's store: values under keys, seen by all processes."""

    def set(self, key: str, value: str) -> None: ...

    def get(self, key: str) -> bytes: ...

    def wait(self, keys: list[str], timeout: timedelta) -> None: ...

    def clone(self) -> Self: ...


@dataclass(slots=True)
class World:
    """One process among `size`, from its own point of view."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Which process of its machine: also the number of its GPU."""
    local_size: int = 1
    store: Store | None = None
    line: str = "main"
    """Messages of one line are counted and do not mix with those of another."""
    _said: int = field(default=0, init=False)

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that prints and writes."""
        return self.rank == 0

    def channel(self, line: str) -> World:
        """The same processes on another line, with a connection of its own: for use in another thread."""
        store = None if self.store is None else self.store.clone()
        return World(self.rank, self.size, self.local_rank, self.local_size, store, f"{self.line}/{line}")

    def tell(self, value: Json = None) -> Json:
        """The first process's value, on every process. All of them must call it."""
        if self.store is None:
            return value
        key = self._next_key()
        if self.is_first:
            self.store.set(key, json.dumps(value))
            return value
        return self._read(key)

    def gather(self, value: Json) -> list[Json]:
        """Every process's value, in the order of ranks, on every process. All of them must call it."""
        if self.store is None:
            return [value]
        key = self._next_key()
        self.store.set(f"{key}/{self.rank}", json.dumps(value))
        everything: Json = None
        if self.is_first:  # collected once: n processes that read n values each would be n x n requests
            everything = [self._read(f"{key}/{rank}") for rank in range(self.size)]
        return self.tell(everything)

    def barrier(self) -> None:
        """Wait until every process is here."""
        self.gather(None)

    def _next_key(self) -> str:
        self._said += 1
        return f"{self.line}/{self._said}"

    def _read(self, key: str) -> Json:
        assert self.store is not None
        self.store.wait([key], PATIENCE)
        return json.loads(self.store.get(key))


def place() -> World:
    """Which process this is, by the environment variables of torchrun, without joining the others."""
    if "MASTER_ADDR" not in os.environ or "RANK" not in os.environ:
        return World()
    try:
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        local_rank = int(os.environ.get("LOCAL_RANK", 0))
        local_size = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    except (KeyError, ValueError) as error:
        raise UserError(
            "RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE say which of several processes this is, and "
            f"one of them is missing or no number ({error}): start with torchrun, or unset them"
        ) from error
    return World(rank, size, local_rank, local_size) if size > 1 else World()


@cache
def join() -> World:
    """Meet the other processes. Who is alone meets nobody; asked again, the answer is the same."""
    world = place()
    return world if world.size == 1 else import_module("modelwright.base.meeting").meet(world)
