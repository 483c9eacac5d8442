"""Measurements of this machine: what a work takes at best, whether others were at work meanwhile, and a note
of what was found in the user's cache.

A disturbed measurement cannot be told by its result: beside one other process on two cores, matrix products
had 40 % of their rate and training steps down to 7 % (measured). It is told by the processors' time: what a
process got of them, of all that it could have had.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from modelwright.base.errors import DamagedFile
from modelwright.base.files import canonical_json, read_json, sha256_text, write_json
from modelwright.base.native import cache_folder
from modelwright.base.run import machine

T = TypeVar("T")

REPEATS = 5
AGAIN = 600
"""Seconds for which a disturbed measurement stands: forecasts made together rest on the same figures."""
QUIET = 0.85
"""Share of the processors' time from which on a measurement is to be trusted: alone on a machine of two cores
it had 0.93 to 0.99, beside another process 0.5 to 0.67 (measured; the rest is what one thread does alone)."""


def best_seconds(work: Callable[[], Any], device: str = "cpu", repeats: int = REPEATS) -> float:
    """Seconds of the quickest of a few times."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


def watched(work: Callable[[], T]) -> tuple[T, float]:
    """(what `work` gives, its share of the processors' time): work that keeps all threads busy has about 1,
    less where others computed meanwhile."""
    processors, wall = time.process_time(), time.perf_counter()
    found = work()
    could = (time.perf_counter() - wall) * torch.get_num_threads()
    return found, min(1.0, (time.process_time() - processors) / could)


def noted(
    what: str, measure: Callable[[], tuple[dict[str, Any], float]], *, again: bool = False
) -> tuple[dict[str, Any], float]:
    """What `measure` found on this machine, and its share of the processors' time (`watched`): as it stands
    in the user's cache; measured now where it does not, `again`, or where others were at work a while ago and
    fewer are now."""
    facts = identity()
    file = cache_folder() / "machines" / f"{sha256_text(canonical_json(facts))[:16]}-{what}.json"
    load = _load()
    if file.is_file() and not again:
        try:
            note = read_json(file)
            stands = load >= note["load"] or time.time() < note["time"] + AGAIN
            if note["share"] >= QUIET or stands:
                return dict(note["found"]), float(note["share"])
        except (DamagedFile, KeyError, TypeError, ValueError):
            pass  # an older or broken note: measure again
    found, share = measure()
    note = {"found": found, "share": share, "load": load, "time": time.time(), "identity": facts}
    write_json(file, note)
    return found, share


def disturbed(share: float) -> str:
    """What to say of a measurement beside its figures, where others were at work."""
    return f", while others were at work (it had {share:.0%} of the processors)" if share < QUIET else ""


def identity() -> dict[str, Any]:
    """What a measurement depends on."""
    torch_threads = {"torch": str(torch.__version__), "threads": torch.get_num_threads()}
    return machine() | torch_threads | {"node": platform.node()}


def _load() -> float:
    """Tasks that wait or work, for each processor."""
    return os.getloadavg()[0] / (os.cpu_count() or 1)
