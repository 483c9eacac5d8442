"""The data of a training's steps, made ahead of time by a thread where that pays.

On a GPU the host has nothing to do while a step is computed, so it reads and packs what the next ones need,
into pinned memory, from which a GPU copies while it computes. On a CPU a second thread would take its time
from the arithmetic: there data is made when it is asked for. What a step reads is a function of its number,
so making it early changes nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from modelwright.base.seams import Objective
from modelwright.training.batches import Batches
from modelwright.training.spread import Share, Spread
from modelwright.training.step_plan import StepPlan

AHEAD = 2
"""Steps that are made ahead on a GPU: one in hand while the next is made."""


@dataclass(frozen=True, slots=True)
class Portion:
    """What this process takes of a step, on the host."""

    shares: list[Share]
    units: int
    """Units to learn from in it."""
    tokens: int
    """Tokens in it."""


@contextmanager
def portions(
    spread: Spread, objective: Objective, batches: Batches, plan: StepPlan, first: int, ahead: int | None
) -> Iterator[Iterator[Portion]]:
    """Those of step `first` and of all behind it; `ahead` steps early, None: as many as the device wants.
    An error in making one is raised when it is asked for."""
    cuda = spread.device.type == "cuda"

    def make(step: int) -> Portion:
        shares = spread.deal(batches, plan.of_step(step))
        counted = [share.batch for share in shares if share.counts]
        units, tokens = sum(map(objective.count, counted)), sum(batch.ids.numel() for batch in counted)
        return Portion([share.pinned() for share in shares] if cuda else shares, units, tokens)

    steps = range(first, plan.steps)
    if ahead is None:
        ahead = AHEAD if cuda else 0
    if not ahead:
        yield map(make, steps)
        return
    # A thread starts on the first GPU, and pinned memory belongs to the one that is current.
    start = (lambda: torch.cuda.set_device(spread.device)) if cuda else None
    thread = ThreadPoolExecutor(1, "batches", start)
    try:
        yield _in_turn(thread, make, steps, ahead)
    finally:
        thread.shutdown(wait=True, cancel_futures=True)


def _in_turn(
    thread: ThreadPoolExecutor, make: Callable[[int], Portion], steps: Iterable[int], ahead: int
) -> Iterator[Portion]:
    """What `make` returns for each step, in order; the thread makes `ahead` more than were asked for."""
    asked: deque[Future[Portion]] = deque()
    for step in steps:
        asked.append(thread.submit(make, step))
        if len(asked) > ahead:
            yield asked.popleft().result()
    while asked:
        yield asked.popleft().result()
