"""The problems of all suites as evaluation items: what no training text may hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from modelwright.base.seeding import derive
from modelwright.data.decontaminate.items import EvalItem
from modelwright.environments.task import all_tasks


def known_items() -> Iterator[EvalItem]:
    """The problems of every suite that the project knows."""
    for name, task in all_tasks().items():
        for problem in task.problems(derive(0, "decontaminate", name)):
            prompt = problem.prompt if isinstance(problem.prompt, str) else problem.prompt[-1].content
            yield EvalItem(name, problem.id, prompt, answer_of(problem.target))


def answer_of(target: Any) -> str:
    """The right answer as text, of what a verifier compares with; "" where there is none."""
    if isinstance(target, dict) and "choices" in target:
        return str(target["choices"][target["answer"]]).strip()
    if isinstance(target, list):
        return str(target[0]) if target else ""
    return str(target) if isinstance(target, str | int | float) else ""
