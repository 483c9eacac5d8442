"""Weights & Biases: offline unless WANDB_MODE says otherwise; `wandb sync` sends what was written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from modelwright.base.files import sha256_text
from modelwright.base.trackers import Place, library_of


def open_tracker(place: Place) -> WandbRun:
    """A run below the stage's folder. Sessions of one stage share an id, and become one run on a server."""
    library: Any = library_of("wandb")
    opened = library.init(
        project=place.project,
        name=place.name,
        id=sha256_text(str(place.folder.resolve()))[:16],
        dir=str(place.folder),
        config=dict(place.config),
        mode=os.environ.get("WANDB_MODE", "offline"),
        settings=library.Settings(silent=True, console="off"),
    )
    return WandbRun(opened)


class WandbRun:
    """One session."""

    def __init__(self, opened: Any) -> None:
        self._run = opened
        self._step, self._values = 0, dict[str, float]()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """What comes for one step in several calls becomes one row: W&B takes no step twice."""
        if step != self._step:
            self._flush()
        self._step = step
        self._values |= values

    def close(self) -> None:
        """Write what is left."""
        self._flush()
        self._run.finish()

    def _flush(self) -> None:
        if self._values:
            self._run.log(self._values, step=self._step)
            self._values = {}
