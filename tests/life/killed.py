"""A life in which one process is killed once in each station that trains. Also as a command, for torchrun:
`python -m tests.life.killed MARKERS ARGUMENTS OF MODELWRIGHT...`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from modelwright.base.world import place
from modelwright.cli import main
from modelwright.stages import training
from modelwright.training import loop

DEADLY_STEP = 6


def live(arguments: list[str], markers: Path) -> None:
    """`modelwright ARGUMENTS`; the last process is killed in the DEADLY_STEP-th step of a station, the first
    time it gets there: then the station's name stands in `markers`."""
    original, accumulate = training.train, loop._accumulate
    at = {"station": "", "steps": 0}

    def train(*args, **kwargs):
        at.update(station=args[5].stage, steps=0)
        return original(*args, **kwargs)

    def deadly(*args, **kwargs):
        at["steps"] = int(at["steps"]) + 1
        marker, world = markers / str(at["station"]), place()
        if at["steps"] == DEADLY_STEP and world.rank == world.size - 1 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return accumulate(*args, **kwargs)

    training.train, loop._accumulate = train, deadly
    sys.exit(main(arguments))


if __name__ == "__main__":
    live(sys.argv[2:], Path(sys.argv[1]))
