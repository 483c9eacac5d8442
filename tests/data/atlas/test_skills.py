from __future__ import annotations

from itertools import islice
from random import Random
from typing import Any

from modelwright.data.atlas.skills import (
    FUNCTIONS,
    calculations,
    functions,
    result_of,
    small_talk,
    sums,
    thanks,
)


def test_each_function_runs_and_does_what_it_says() -> None:
    expected = {
        "double": ((4,), 8),
        "square": ((5,), 25),
        "add": ((2, 3), 5),
        "larger": ((2, 7), 7),
        "is_even": ((4,), True),
        "is_odd": ((4,), False),
        "absolute": ((-3,), 3),
        "backwards": (("abc",), "cba"),
        "shout": (("abc",), "ABC"),
        "first": (([1, 2],), 1),
        "last": (([1, 2],), 2),
        "average": (([1, 2, 6],), 3),
    }
    assert {name for name, _, _ in FUNCTIONS} == set(expected)
    for name, _, source in FUNCTIONS:
        scope: dict[str, Any] = {}
        exec(source, scope)
        arguments, result = expected[name]
        assert scope[name](*arguments) == result


def test_calculations_are_divided_without_rest() -> None:
    parts = [set(calculations(split)) for split in ("train", "validation", "test")]
    assert sum(map(len, parts)) == len(set().union(*parts)) == 51 * 51 + 51 * 52 // 2 + 13 * 13
    assert len(parts[2]) > 300
    assert all(result_of(*calculation) >= 0 for calculation in calculations("train"))


def test_answers_to_sums_end_in_the_right_number() -> None:
    for exchange in islice(sums(Random(0), "train"), 300):
        left, operator, right = exchange.concise.split()[:3]
        result = result_of(operator, int(left), int(right))
        for answer in (exchange.concise, exchange.verbose):
            assert answer.endswith((f" {result}.", f"={result}."))
        assert left in exchange.question
        assert right in exchange.question


def test_other_skills_take_turns() -> None:
    assert len({each.concise for each in islice(functions(Random(0)), len(FUNCTIONS))}) == len(FUNCTIONS)
    assert len({each.question for each in islice(small_talk(Random(0)), 13)}) == 13
    assert thanks(Random(0)).kind == "thanks"
