"""Tasks: named sets of problems with a check, one file each in `environments/tasks/`.

A file there is a task when it has `NAME`, `DESCRIPTION`, `problems` and `score`. To add one is to add
a file: it is found by looking into the folder, and nothing else needs to change.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Protocol, cast

from modelwright.base.errors import UserError, did_you_mean
from modelwright.base.schema import Problem, Score
from modelwright.environments import tasks

REQUIRED = ("NAME", "DESCRIPTION", "problems", "score")


class Task(Protocol):
    """What a task file offers. Optional: `UNIT` ("share" unless said), `HIGHER_IS_BETTER` (True; None
    for a measure that is neither), `MAX_TOKENS` of an answer, and `FOR_DEVELOPMENT` (False) for a task that
    is asked only where it is named; the functions below read them."""

    NAME: str
    DESCRIPTION: str

    def problems(self, seed: int, limit: int | None = None) -> list[Problem]:
        """The problems, the same for the same seed; at most `limit`."""
        ...

    def score(self, problem: Problem, text: str) -> Score:
        """Score the text of an answer."""
        ...


def all_tasks() -> Mapping[str, Task]:
    """Every task, by name, in the order of the file names."""
    found: dict[str, Task] = {}
    for module in sorted(pkgutil.iter_modules(tasks.__path__), key=lambda item: item.name):
        file = f"environments/tasks/{module.name}.py"
        task = importlib.import_module(f"{tasks.__name__}.{module.name}")
        missing = [name for name in REQUIRED if not hasattr(task, name)]
        if missing:
            raise UserError(f"{file} lacks {', '.join(missing)}; a task needs {', '.join(REQUIRED)}")
        if task.NAME in found:
            raise UserError(f"{file}: the name '{task.NAME}' is taken; choose another")
        found[task.NAME] = cast(Task, task)
    return found


def select(names: tuple[str, ...]) -> Mapping[str, Task]:
    """The named tasks, in the order given; for no names all but those for development."""
    known = all_tasks()
    for name in names:
        if name not in known:
            raise UserError(f"there is no task '{name}'.{did_you_mean(name, known)}")
    if names:
        return {name: known[name] for name in names}
    return {name: task for name, task in known.items() if not getattr(task, "FOR_DEVELOPMENT", False)}


def unit_of(task: Task) -> str:
    """What a score counts: "share" of problems solved, or "words"."""
    return str(getattr(task, "UNIT", "share"))


def higher_is_better(task: Task) -> bool | None:
    """Whether more is better; None where a number is only worth knowing."""
    value = getattr(task, "HIGHER_IS_BETTER", True)
    return None if value is None else bool(value)


def max_tokens_of(task: Task, default: int) -> int:
    """How long an answer may be: what the task says, else `default`."""
    return int(getattr(task, "MAX_TOKENS", default))
