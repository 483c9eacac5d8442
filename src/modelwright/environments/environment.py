"""The single-turn environment: a problem is asked, one answer is given, and it is scored.

Single use: there is no reset, so nothing of one attempt can leak into the next.
"""

from __future__ import annotations

from modelwright.base.schema import Problem, Score
from modelwright.environments.task import Task


class SingleTurn:
    """One attempt at one problem of a task. Implements `base.seams.Environment`."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._problem: Problem | None = None
        self._answer: str | None = None

    def open(self, problem: Problem) -> str:
        """Begin; returns what the model sees (the last message, or the prefix to continue)."""
        if self._problem is not None:
            raise RuntimeError("an environment is for one attempt; make a new one")
        self._problem = problem
        return problem.prompt if isinstance(problem.prompt, str) else problem.prompt[-1].content

    def step(self, action: str) -> tuple[str, bool]:
        """Take the answer; there is nothing more to observe, and it is done."""
        if self._problem is None or self._answer is not None:
            raise RuntimeError("a single-turn environment takes one answer, after `open`")
        self._answer = action
        return "", True

    def score(self) -> Score:
        """Score the answer; an attempt without one is ungraded."""
        if self._problem is None or self._answer is None:
            return Score(value=None, reason="ungraded: no answer was given")
        return self._task.score(self._problem, self._answer)
