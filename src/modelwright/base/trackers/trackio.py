"""Trackio: a local database, shown with `trackio show`; TRACKIO_DIR says where it lies."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from modelwright.base.trackers import Place, library_of


def open_tracker(place: Place) -> TrackioRun:
    """Taken up again where an earlier session stopped."""
    os.environ.setdefault("TRACKIO_DIR", str(place.folder / "trackio"))  # read when it is imported
    library: Any = library_of("trackio")
    opened = library.init(
        project=place.project, name=place.name, config=dict(place.config), resume="allow", embed=False
    )
    return TrackioRun(opened)


class TrackioRun:
    """One session."""

    def __init__(self, opened: Any) -> None:
        self._run = opened

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """One row."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Write what is left."""
        self._run.finish()
