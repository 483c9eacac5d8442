"""A stage's workbench on a process that only computes with others: it prints and writes nothing."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from modelwright.base.artifact import Artifact
from modelwright.base.progress import PlainView
from modelwright.base.run import Run
from modelwright.base.world import World


class NoMetrics:
    """Takes what a MetricsFile takes, and drops it."""

    def write(self, step: int, values: Mapping[str, float | int | str]) -> None:
        """Nothing."""

    def rewind(self, last_step: int) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class FollowingRun(Run):
    """The run of a process that is not the first: the same folder and inputs to read, nothing to write."""

    keeps = False

    def _open(self) -> None:
        self._view, self._earlier_seconds = PlainView(quiet=True), 0.0
        self.metrics = NoMetrics()  # type: ignore[assignment]

    def log(self, text: str) -> None:
        """Nothing."""

    def timing(self, step: int, **values: float) -> None:
        """Nothing."""

    def track(self, names: Sequence[str], after_step: int) -> None:
        """Nothing."""

    @contextmanager
    def watch(self) -> Generator[None]:
        """Nothing: the first process samples for itself."""
        yield

    def finish(
        self,
        files: Iterable[str],
        metrics: Mapping[str, Any] | None = None,
        tokens: int = 0,
        flops: float = 0.0,
        paid: float = 0.0,
    ) -> Artifact:
        """What was made, as far as this process knows: without the files, which the first one writes."""
        return Artifact(self.dir, self._manifest((), metrics, self._cost(tokens, flops, paid)))

    def close(self) -> None:
        """Nothing is open."""


def open_run(world: World) -> type[Run]:
    """The kind of workbench for this process."""
    return Run if world.is_first else FollowingRun
