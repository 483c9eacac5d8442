"""Trackers: other places where the values of a run are shown while it works, one file each.

The record of a run is its own files; a tracker gets copies. None decides what a stage makes, so none is part
of its fingerprint, and one that fails is said once and left out: it never stops a run. The file `<name>.py`
has `open_tracker(place: Place) -> Tracker` and imports its library there.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol

from modelwright.base.errors import UserError

TrackerName = Literal["tensorboard", "trackio", "wandb", "mlflow"]


@dataclass(frozen=True, slots=True)
class Place:
    """What a tracker is to know of a run."""

    folder: Path
    """Of the stage; what a tracker keeps in files goes below it."""
    project: str
    name: str
    config: Mapping[str, Any]
    after_step: int
    """The last step that counts: later ones of an interrupted session are done again."""


class Tracker(Protocol):
    """One place that takes numbers."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def library_of(name: str) -> Any:
    """The library behind a tracker, which is not among those that come with the package."""
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(f"{name} is not installed: pip install {name}") from error


class Trackers:
    """All trackers of a run."""

    def __init__(self, names: Sequence[str], place: Place, sent: int, say: Callable[[str], None]) -> None:
        """`sent`: the last step that an earlier session has reported. Steps done again give the same values
        and are not reported twice; a tracker that can take back what is obsolete gets them again."""
        self._say, self._open = say, dict[str, Tracker]()
        self._sent = sent
        for name in names:
            with self._guarded(name):
                opened = import_module(f"{__name__}.{name}").open_tracker(place)
                self._open[name] = opened
                say(f"tracker: {name}")

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Send the numbers among the values of a step; those that are not finite stay out."""
        numbers = {
            name: float(value)
            for name, value in values.items()
            if isinstance(value, int | float) and math.isfinite(value)
        }
        for name, tracker in [*self._open.items()]:
            if step > self._sent or getattr(tracker, "takes_back", False):
                with self._guarded(name):
                    tracker.log(step, numbers)

    def close(self) -> None:
        """End all of them; safe to call twice."""
        while self._open:
            name, tracker = self._open.popitem()
            with self._guarded(name):
                tracker.close()

    @contextlib.contextmanager
    def _guarded(self, name: str):
        """Standard output stays free for data, and whatever goes wrong costs the tracker alone."""
        try:
            with contextlib.redirect_stdout(sys.stderr):
                yield
        except Exception as error:
            self._open.pop(name, None)
            why = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            self._say(f"tracker {name} is left out from here on ({why})")
