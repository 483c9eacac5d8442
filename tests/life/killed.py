"""A whole life in several processes in which one is killed once in each station that trains.

Run by torchrun as `python -m tests.life.killed MARKERS ARGUMENTS OF MODELWRIGHT...`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from modelwright.base.world import place
from modelwright.cli import main
from modelwright.training import loop


def die_once_in_each_station(markers: Path) -> None:
    """The second process is killed in the fifth step of a station, the first time it gets there."""
    original, accumulate = loop.train, loop._accumulate
    at = {"station": "", "steps": 0}

    def train(*args, **kwargs):
        at.update(station=args[5].stage, steps=0)
        return original(*args, **kwargs)

    def deadly(*args, **kwargs):
        at["steps"] = int(at["steps"]) + 1
        marker = markers / str(at["station"])
        if at["steps"] == 5 and place().rank == 1 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return accumulate(*args, **kwargs)

    loop.train, loop._accumulate = train, deadly


if __name__ == "__main__":
    die_once_in_each_station(Path(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
