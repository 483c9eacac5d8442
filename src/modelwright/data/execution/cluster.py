"""Units of work on Ray Data: the same functions, on one machine or many that share the work folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self

from modelwright.base.errors import UserError
from modelwright.data.execution.local import LocalProcesses, environment


class RayCluster:
    """A running cluster ("auto" finds one, "host:port" is one), or else a Ray of its own with `workers`
    CPUs on this machine, which ends with the context."""

    def __init__(
        self,
        folder: Path,
        workers: int,
        address: str | None,
        stalled_seconds: float,
        log: Callable[[str], None],
    ) -> None:
        try:
            import ray
        except ImportError as error:
            raise UserError("data.execution.engine is 'ray': pip install 'modelwright[ray]'") from error
        self._ray, self._folder, self._stalled, self._log = ray, folder, stalled_seconds, log
        self._owned = not ray.is_initialized()
        if self._owned:
            _start(ray, workers, address)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._owned:
            self._ray.shutdown()

    def run(
        self, function: str, units: Iterable[int], advance: Callable[[int], None]
    ) -> dict[int, dict[str, Any]]:
        """Unit -> {"done"} or {"failed"}. Ray itself takes up again what died with a machine."""
        from ray.exceptions import RayError

        rows = [{"unit": unit} for unit in units]
        answers: dict[int, dict[str, Any]] = {}
        if not rows:
            return answers
        try:
            made = self._ray.data.from_items(rows, override_num_blocks=len(rows))
            task = _task(function, self._folder, self._stalled)
            for row in made.map(task, num_cpus=1).iter_rows():
                told = json.loads(row["told"])
                for line in told["said"]:
                    self._log(line)
                advance(told["bytes"])
                answers[row["unit"]] = told["answer"]
        except RayError as error:
            raise UserError(
                f"a Ray task failed: {str(error).strip().splitlines()[-1]}. What was finished is kept; the "
                "same command goes on from there."
            ) from error
        return answers


def _start(ray: Any, workers: int, address: str | None) -> None:
    import ray.data  # Ray leaves it out until it is asked for

    if address:
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    else:
        variables = {"env_vars": {"PYTHONPATH": environment()["PYTHONPATH"]}}
        ray.init(
            num_cpus=workers,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            runtime_env=variables,
        )
    ray.data.DataContext.get_current().enable_progress_bars = False


def _task(function: str, folder: Path, stalled: float) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def task(row: dict[str, Any]) -> dict[str, Any]:
        number = int(row["unit"])
        return {"unit": number, "told": json.dumps(in_a_process(function, folder, number, stalled))}

    return task


def in_a_process(function: str, folder: Path, number: int, stalled: float) -> dict[str, Any]:
    """One unit in a fresh process of this machine, watched as local ones are: it may hang and die without
    Ray's own process, which would be told neither and may remember an earlier run."""
    said: list[str] = []
    advanced: list[int] = []
    try:
        with LocalProcesses(1, folder, stalled, said.append) as process:
            answer = process.run(function, [number], advanced.append)[number]
    except UserError as error:
        answer = {"failed": {"kind": type(error).__name__, "says": str(error)}}
    return {"answer": answer, "said": said, "bytes": sum(advanced)}
