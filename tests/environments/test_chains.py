"""Chains of sums: what the exact teacher writes is right, and learning and judging never meet."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelwright.environments.tasks import chains


def added_up(expression: str) -> int:
    return sum(map(int, re.findall(r"[+-]?[0-9]+", expression)))


@given(st.integers(0, 10**6), st.integers(2, 6))
def test_the_teacher_is_right(seed: int, terms: int) -> None:
    for problem in chains.draw(seed, 3, "train", terms):
        assert not isinstance(problem.prompt, str)
        (question,) = problem.prompt
        assert problem.target == added_up(question.content) >= 0
        steps = chains.stepwise(problem)
        assert not isinstance(steps.prompt, str)
        worked = chains.worked_out(steps.prompt[0].content)
        assert worked.count("=") == terms - 1
        for step in worked.partition(".")[0].split(","):
            left, right = step.split("=")
            assert added_up(left) == int(right)
        assert chains.score(problem, chains.worked_out(question.content)).value == 1
        assert chains.score(steps, worked).value == 1 and steps.id != problem.id
        assert chains.score(problem, str(int(worked.split()[-1]) + 1)).value == 0


def test_learning_and_judging_never_meet() -> None:
    judged = {problem.id for problem in chains.problems(0, 300)}
    learned = {problem.id for seed in range(3) for problem in chains.draw(seed, 500, "train")}
    assert len(judged) == 300 and not judged & learned
    assert [each.id for each in chains.problems(0, 5)] == [each.id for each in chains.draw(0, 5, "test")]


@pytest.mark.parametrize("question", ["", "3", "3+", "3*4", "import os", "1+2 Step", "1+2" * 99, "１+2"])
def test_other_questions_are_refused(question: str) -> None:
    with pytest.raises(ValueError, match="no chain of sums"):
        chains.worked_out(question)


def test_there_are_only_so_many() -> None:
    with pytest.raises(ValueError, match="different problems of 2 terms"):
        chains.draw(0, 10_000, "test", 2)
