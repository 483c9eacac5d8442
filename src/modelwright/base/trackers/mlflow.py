"""MLflow: a database below the stage's folder unless MLFLOW_TRACKING_URI names a server."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from modelwright.base.trackers import Place, library_of

FOLDER = "modelwright.folder"
"""The tag by which a later session finds its run again."""


def open_tracker(place: Place) -> MlflowRun:
    """A run of the experiment that has the project's name; that of an earlier session where there is one."""
    library: Any = library_of("mlflow")
    client = library.MlflowClient(
        tracking_uri=os.environ.get("MLFLOW_TRACKING_URI") or _local(place.folder.resolve())
    )
    found = client.get_experiment_by_name(place.project)
    experiment = found.experiment_id if found else client.create_experiment(place.project)
    here = str(place.folder.resolve())
    earlier = client.search_runs([experiment], filter_string=f"tags.`{FOLDER}` = '{here}'")
    if earlier:
        return MlflowRun(library, client, earlier[0].info.run_id)
    made = client.create_run(experiment, tags={FOLDER: here}, run_name=place.name)
    for name, value in place.config.items():
        client.log_param(made.info.run_id, name, str(value)[:6000])
    return MlflowRun(library, client, made.info.run_id)


def _local(folder: Path) -> str:
    """A database; or plain files for mlflow-skinny, which has no other store and asks for this consent."""
    if find_spec("sqlalchemy"):
        return f"sqlite:///{folder / 'mlflow.db'}"
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    return (folder / "mlruns").as_uri()


class MlflowRun:
    """One session."""

    def __init__(self, library: Any, client: Any, run_id: str) -> None:
        self._metric, self._client, self._id = library.entities.Metric, client, run_id

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """All values of a call at once."""
        now = int(time.time() * 1000)
        self._client.log_batch(
            self._id, [self._metric(name, value, now, step) for name, value in values.items()]
        )

    def close(self) -> None:
        """The run is over."""
        self._client.set_terminated(self._id)
