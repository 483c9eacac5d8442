"""Worked arithmetic with small numbers: sums, steps, tables, little word problems.

Only calculations of the split "train" are written out, steps included, so that the ones that are kept
for tests are never seen. Every result is computed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from modelwright.data.atlas.genres.people import two_people
from modelwright.data.atlas.phrasing import Deck
from modelwright.data.atlas.skills import calculations, result_of
from modelwright.data.atlas.splits import operands_split
from modelwright.data.atlas.world import World

Calculation = tuple[str, int, int]

_WORDS = {"+": "plus", "-": "minus", "*": "times"}
_GOODS = ("apples", "books", "coins", "eggs", "marbles", "nuts", "pencils", "stamps", "stones", "tickets")


def arithmetic(world: World, rng: random.Random) -> Iterator[str]:
    """Seven to fourteen calculations a document. There are few products, so they come up more often."""
    del world
    known = calculations("train")
    products = [calculation for calculation in known if calculation[0] == "*"]
    deck = Deck([*known, *products * 5], rng)
    styles: tuple[Callable[[Calculation, random.Random], str], ...] = (_plain, _in_words, _steps, _problem)
    while True:
        style = rng.choice((*styles, None))
        chosen = deck.hand(rng.randint(7, 14))
        lines = [(style or rng.choice(styles))(calculation, rng) for calculation in chosen]
        yield "\n".join(lines)


def _plain(calculation: Calculation, rng: random.Random) -> str:
    del rng
    operator, left, right = calculation
    return f"{left} {operator} {right} = {result_of(operator, left, right)}"


def _in_words(calculation: Calculation, rng: random.Random) -> str:
    operator, left, right = calculation
    question = f"{left} {_WORDS[operator]} {right}"
    result = result_of(operator, left, right)
    return rng.choice((f"What is {question}? {question} is {result}.", f"{question} is {result}."))


def _steps(calculation: Calculation, rng: random.Random) -> str:
    """In two steps, where both steps may be shown; else as it is."""
    operator, left, right = calculation
    result = result_of(operator, left, right)
    steps = _split_up(operator, left, right)
    if not steps or any(operands_split(o, x, y) != "train" for o, x, y in steps):
        return _in_words(calculation, rng)
    shown = ", then ".join(f"{x} {o} {y} = {result_of(o, x, y)}" for o, x, y in steps)
    return f"{left} {operator} {right}: first {shown}. So {left} {operator} {right} = {result}."


def _split_up(operator: str, left: int, right: int) -> list[Calculation]:
    """Tens first, then ones; a product from the one before it. Empty where that is no help."""
    if operator == "*":
        return [("*", left - 1, right), ("+", (left - 1) * right, right)] if left > 2 and right > 1 else []
    tens, ones = right // 10 * 10, right % 10
    if not tens or not ones:
        return []
    return [(operator, left, tens), (operator, result_of(operator, left, tens), ones)]


def _problem(calculation: Calculation, rng: random.Random) -> str:
    operator, left, right = calculation
    result = result_of(operator, left, right)
    woman, man = two_people(rng)
    goods = rng.choice(_GOODS)
    if min(left, right) < 2 or result < 2:
        return _in_words(calculation, rng)
    if operator == "*":
        story = f"There are {left} bags with {right} {goods} each. Together there are {result} {goods}"
    elif operator == "+":
        story = f"{woman} has {left} {goods}. {man} gives her {right} more. Now she has {result} {goods}"
    else:
        story = f"{man} has {left} {goods}. He gives {right} of them to {woman}. Now he has {result} {goods}"
    return f"{story}, because {left} {operator} {right} = {result}."
