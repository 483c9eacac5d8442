"""How several processes meet: torch.distributed, joined once. Loaded only where there are several."""

from __future__ import annotations

import atexit
import os
from typing import Any, cast

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed import rendezvous as find_store  # pyright: ignore

from modelwright.base.world import COLLECTIVE_PATIENCE, Store, World


def meet(world: World) -> World:
    """The same world with a line to the others; from here on they can exchange tensors too."""
    if torch.cuda.is_available():
        torch.cuda.set_device(world.local_rank)
    # After a restart torchrun's store may still hold the addresses of those who died.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    found = next(cast(Any, find_store)("env://", timeout=COLLECTIVE_PATIENCE))[0]
    store = PrefixStore(f"attempt-{attempt}", found)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    meeting: dict[str, Any] = {"rank": world.rank, "world_size": world.size, "timeout": COLLECTIVE_PATIENCE}
    dist.init_process_group(backend, store=PrefixStore("tensors", store), **meeting)
    atexit.register(dist.destroy_process_group)
    world.store = cast(Store, PrefixStore("words", store))
    return world
