"""Sums and differences of several digits in a row, which can be worked out step by step, exactly.

"3+9-5" is asked in two ways: bare, for the result alone, and with `STEPS` behind it, for the steps before it
("3+9=12,12-5=7. So 7"). So one model can be taught both ways, and the same problems asked in both. Problems
are made from a seed; whether one is for learning or for judging lies in its expression, so no seed mixes them
up.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping

from modelwright.base.files import sha256_text
from modelwright.base.schema import Message, Problem, Score
from modelwright.environments.verify import verify

NAME = "chains"
DESCRIPTION = "Sums and differences of four digits in a row, the result alone."
FOR_DEVELOPMENT = True
MAX_TOKENS = 8

STEPS = " Step by step."
"""Behind an expression: write the steps, then the result."""
TERMS, DEFAULT = 4, 200
_EXPRESSION = re.compile(r"[0-9]{1,3}(?:[+-][0-9]{1,3}){1,30}")


def problems(seed: int, limit: int | None = None) -> list[Problem]:
    """Problems to judge by, the same for the same seed, asked for the result alone."""
    return draw(seed, DEFAULT if limit is None else limit, "test")


def score(problem: Problem, text: str) -> Score:
    """1 if the last number is the result."""
    return verify(problem, text)


def draw(seed: int, count: int, split: str, terms: int = TERMS) -> list[Problem]:
    """`count` different problems of a split, "train" or "test" (one expression in eight). ValueError where
    there are not so many."""
    found: dict[str, Problem] = {}
    generator, tries = random.Random(seed), 0
    while len(found) < count:
        expression = _expression(generator, terms)
        if (int(sha256_text(expression)[:8], 16) % 8 == 0) == (split == "test"):
            found[expression] = _problem(expression, split)
        tries += 1
        if tries > 1000 + 100 * count:
            raise ValueError(
                f"{count} different problems of {terms} terms were asked for: found {len(found)}"
            )
    return list(found.values())


def stepwise(problem: Problem) -> Problem:
    """The same problem, asked for its steps."""
    (message,) = problem.prompt
    assert isinstance(message, Message)
    asked = Message(role="user", content=message.content + STEPS)
    return Problem(
        id=f"{problem.id}-steps",
        prompt=(asked,),
        verifier=problem.verifier,
        target=problem.target,
        split=problem.split,
        meta=problem.meta,
    )


def worked_out(question: str) -> str:
    """What an exact teacher answers to a question of either kind. ValueError where it is none."""
    expression = question.removesuffix(STEPS)
    if not _EXPRESSION.fullmatch(expression):
        raise ValueError(f"'{question:.60}' is no chain of sums: expected digits, + and - ('3+9-5')")
    steps = list(_steps(expression))
    result = steps[-1].partition("=")[2]
    return f"{','.join(steps)}. So {result}" if question.endswith(STEPS) else result


def _expression(generator: random.Random, terms: int) -> str:
    """Digits in a row; no running total falls below 0."""
    total = generator.randint(0, 9)
    text = str(total)
    for _ in range(terms - 1):
        digit = generator.randint(1, 9)
        sign = -1 if total >= digit and generator.random() < 0.5 else 1
        total += sign * digit
        text += f"{'+' if sign > 0 else '-'}{digit}"
    return text


def _problem(expression: str, split: str) -> Problem:
    target = int(worked_out(expression))
    meta: Mapping[str, str] = {"licence": "CC0-1.0"}
    prompt = (Message(role="user", content=expression),)
    return Problem(id=expression, prompt=prompt, verifier="number", target=target, split=split, meta=meta)


def _steps(expression: str) -> Iterator[str]:
    """ "3+9=12", "12-5=7"."""
    first, *rest = re.findall(r"[+-]?[0-9]+", expression)
    total = int(first)
    for term in rest:
        after = total + int(term)
        yield f"{total}{term}={after}"
        total = after
