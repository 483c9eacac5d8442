"""Units of work on Ray Data: the same functions, on one machine or many that share the work folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from modelwright.base.errors import UserError
from modelwright.data.execution.local import environment
from modelwright.data.execution.worker import work


def run(
    function: str, folder: Path, units: Iterable[int], workers: int, address: str | None
) -> dict[int, dict[str, Any]]:
    """Unit -> {"done"} or {"failed"}. `address` is a running cluster's; without one, Ray is started here
    with `workers` CPUs, and stopped again."""
    try:
        import ray
        from ray.exceptions import RayError
    except ImportError as error:
        raise UserError("data.execution.engine is 'ray': pip install 'modelwright[ray]'") from error
    owned = not ray.is_initialized()
    if owned:
        _start(ray, workers, address)
    try:
        rows = [{"unit": unit} for unit in units]
        if not rows:
            return {}
        task = _task(function, folder)
        made = ray.data.from_items(rows, override_num_blocks=len(rows)).map(task, num_cpus=1)
        return {row["unit"]: row["answer"] for row in made.take_all()}
    except RayError as error:
        raise UserError(
            f"a Ray task failed: {str(error).strip().splitlines()[-1]}. What was finished is kept; the same "
            "command goes on from there."
        ) from error
    finally:
        if owned:
            ray.shutdown()


def _start(ray: Any, workers: int, address: str | None) -> None:
    quiet = {"log_to_driver": False, "include_dashboard": False, "configure_logging": False}
    if address:
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    else:
        ray.init(
            num_cpus=workers, runtime_env={"env_vars": {"PYTHONPATH": environment()["PYTHONPATH"]}}, **quiet
        )
    ray.data.DataContext.get_current().enable_progress_bars = False


def _task(function: str, folder: Path) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def task(row: dict[str, Any]) -> dict[str, Any]:
        number = int(row["unit"])
        return {"unit": number, "answer": work(function, folder, number, lambda _: None)}

    return task
