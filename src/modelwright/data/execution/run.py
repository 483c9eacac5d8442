"""Choosing who runs the units, and turning their failures into errors here."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field

from modelwright.base import errors
from modelwright.base.config import Config
from modelwright.base.errors import UserError
from modelwright.data.execution.beat import forget_deaths
from modelwright.data.execution.cluster import RayCluster
from modelwright.data.execution.holding import is_held, remove_leftovers
from modelwright.data.execution.local import LocalProcesses
from modelwright.data.execution.worker import NOTES, allow_many_files, work

SMALL_BYTES = 1 << 24
"""Less input than this is worked on by one process: starting more takes longer than the work."""


class Execution(Config):
    """Who does the work. What is made does not depend on it."""

    engine: Literal["local", "ray"] = "local"
    """Processes on this machine, or Ray Data."""
    workers: int = Field(default=0, ge=0)
    """Processes; 0 takes one for each core."""
    ray_address: str | None = None
    """A running cluster ("auto" finds one), whose machines share the run directory. Without one, Ray is
    started on this machine."""
    stalled_seconds: float = Field(default=600.0, gt=0)
    """A process that does not finish a document in this time is killed, and its unit taken up again; so is
    one that does nothing at all where all documents are worked on together."""

    @property
    def num_workers(self) -> int:
        """Processes in all."""
        return self.workers or len(os.sched_getaffinity(0))


class Performer:
    """Runs phases of units one after the other, with the same workers."""

    def __init__(
        self,
        execution: Execution,
        folder: Path,
        input_bytes: int,
        log: Callable[[str], None],
        trusted: bool = False,
    ) -> None:
        """`folder` is held by the caller (`alone_in`). `trusted` input, which we have made ourselves, can
        neither kill nor hang a process: where there is little of it, this one does the work."""
        self._execution, self._folder = execution, folder
        small = input_bytes < SMALL_BYTES
        self._here = execution.engine == "local" and small and trusted
        self._count = 1 if small else execution.num_workers
        self._log = log
        allow_many_files()
        self._stack = ExitStack()
        self._processes: LocalProcesses | None = None
        self._ray: RayCluster | None = None
        start_afresh(folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def __call__(
        self, function: str, units: Sequence[int], advance: Callable[[int], None] = lambda _: None
    ) -> dict[int, Any]:
        """Unit -> its result. The first failure (by number) is raised, when all that ran has ended."""
        if self._execution.engine == "ray":
            answers = self._cluster().run(function, units, advance)
        elif self._here:
            answers = {}
            for unit in units:
                answers[unit] = work(function, self._folder, unit, advance)
                if "failed" in answers[unit]:
                    break
        else:
            answers = self._local().run(function, units, advance)
        raise_failure(answers)
        return {unit: answers[unit]["done"] for unit in units}

    def _cluster(self) -> RayCluster:
        if self._ray is None:
            settings = self._execution
            ray = RayCluster(
                self._folder.resolve(),
                settings.num_workers,
                settings.ray_address,
                settings.stalled_seconds,
                self._log,
            )
            self._ray = self._stack.enter_context(ray)
        return self._ray

    def _local(self) -> LocalProcesses:
        if self._processes is None:
            settings = self._execution
            self._processes = self._stack.enter_context(
                LocalProcesses(self._count, self._folder, settings.stalled_seconds, self._log)
            )
        return self._processes


def start_afresh(folder: Path) -> None:
    """Clear away what runs have left that are dead: notes, blame, unfinished files and folders. What a
    process that still lives is at work on stays: a machine of a cluster may end after its run."""
    remove_leftovers(folder)
    for notes in (folder / NOTES).glob("*"):
        remove_leftovers(notes)
        forget_deaths(notes)
    for phase in folder.iterdir():
        if phase.is_dir() and not any(map(is_held, (folder / NOTES / phase.name).glob("*.note"))):
            remove_leftovers(phase)


def raise_failure(answers: Mapping[int, Mapping[str, Any]]) -> None:
    """The failure of the first unit that failed, as the error that it was."""
    for unit in sorted(answers):
        failed = answers[unit].get("failed")
        if failed:
            kind = getattr(errors, failed["kind"], None) if failed["kind"] else None
            if isinstance(kind, type) and issubclass(kind, UserError):
                raise kind(failed["says"])
            raise RuntimeError(f"unit {unit} failed:\n{failed['says']}")
