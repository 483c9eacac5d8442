"""When Python looks for objects that only refer to each other: at the loop's word, not within a step.

Python looks whenever enough objects were made, and looks at all of them: half a second in a large program
(measured by nanochat), in which a GPU runs out of work, and in which of many processes all wait for one.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def collected_every(steps: int) -> Iterator[Callable[[int], None]]:
    """Within, Python looks only where what is given here is called with a multiple of `steps`, and never
    again at what was there the first time. 0: all stays as it is."""
    if not steps:
        yield lambda step: None
        return
    was_on = gc.isenabled()
    gc.disable()

    def collect(step: int) -> None:
        if step % steps == 0:
            gc.collect()
            if not gc.get_freeze_count():  # once: what is set aside and dropped later is never found again
                gc.freeze()

    try:
        yield collect
    finally:
        gc.unfreeze()
        if was_on:
            gc.enable()
