"""Child processes that can be killed, and start at once: a server has loaded torch and the stages, has
computed nothing, and forks. A fresh interpreter takes six seconds for it."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Mapping
from functools import cache
from multiprocessing import connection, get_context
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import torch
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

STAGES = ("prepare", "pretrain", "finetune", "align", "forecast")
LOADED = ("modelwright.cli", "modelwright.base.meeting", *(f"modelwright.stages.{name}" for name in STAGES))
"""What the server imports before it forks anything."""


@cache
def _server() -> ForkServerContext:
    context = get_context("forkserver")
    context.set_forkserver_preload(list(LOADED))
    return context


def run(errors: Path, function: Callable[..., object], *arguments: Any) -> int:
    """Call a function of a test module in a child, on one thread; the exit code, negative if it was killed.
    What goes wrong in it is written to `errors`."""
    return run_together(errors, 1, function, *arguments)[0]


def run_together(errors: Path, processes: int, function: Callable[..., object], *arguments: Any) -> list[int]:
    """The same in several children that meet as torchrun's do. When one dies, the others are killed, as
    torchrun's agent kills them."""
    meeting = TCPStore("localhost", 0, is_master=True, wait_for_workers=False) if processes > 1 else None
    places = [_place(rank, processes, meeting.port) for rank in range(processes)] if meeting else [{}]
    children = [
        _server().Process(target=_child, args=(place, errors, function, arguments)) for place in places
    ]
    for child in children:
        child.start()
    running = {child.sentinel: child for child in children}
    while running:
        for sentinel in connection.wait(list(running)):
            ended = running.pop(sentinel)  # type: ignore[call-overload]
            ended.join()
            if ended.exitcode:
                for other in running.values():
                    other.kill()
    return [child.exitcode or 0 for child in children]


def _place(rank: int, processes: int, port: int) -> dict[str, str]:
    """What torchrun tells each of its processes. As there, the store is kept by who starts them."""
    address = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    sizes = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    return address | sizes | {"RANK": str(rank), "LOCAL_RANK": str(rank)}


def _child(
    place: Mapping[str, str], errors: Path, function: Callable[..., object], arguments: tuple[Any, ...]
) -> None:
    os.environ.update(place)
    torch.set_num_threads(1)
    try:
        function(*arguments)
    except BaseException:
        with open(errors, "a", encoding="utf-8") as file:
            traceback.print_exc(file=file)
        raise
