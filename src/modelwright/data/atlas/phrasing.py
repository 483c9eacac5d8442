"""How facts are said and asked for in running text, and the small words around them.

A fact is told in its canonical sentence about half the time and in another phrasing otherwise, so
that a model meets both one firm form and the fact itself apart from its words.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Generic, TypeVar

from modelwright.data.atlas.facts import Fact, capitalize, statement
from modelwright.data.atlas.world import with_article

T = TypeVar("T")

CANONICAL_SHARE = 0.5

STATEMENTS: Mapping[str, tuple[str, ...]] = {
    "capital": (
        "The capital city of {s} is {a}.",
        "{S} has {a} as its capital.",
        "In {s}, the capital is {a}.",
        "{P} capital is {a}.",
    ),
    "capital_of": (
        "{S} is the capital city of {a}.",
        "{S} is the capital of {a}.",
        "With {s} as its capital, the country must be {a}.",
    ),
    "continent": (
        "{S} is a country in {a}.",
        "{S} lies in {a}.",
        "{S} is in {a}.",
        "On a map of the world, you find {s} in {a}.",
    ),
    "currency": (
        "In {s}, people pay with the {a}.",
        "{P} currency is the {a}.",
        "The money of {s} is the {a}.",
        "To buy something in {s}, you need the {a}.",
    ),
    "language": (
        "In {s}, {a} is an official language.",
        "{A} is an official language of {s}.",
        "One official language of {s} is {a}.",
    ),
    "neighbour": (
        "{S} borders {a}.",
        "{S} shares a border with {a}.",
        "{S} and {a} are neighbours.",
        "One neighbour of {s} is {a}.",
    ),
    "element_symbol": (
        "The symbol of {s} is {a}.",
        "Chemists write {s} as {a}.",
        "{P} chemical symbol is {a}.",
    ),
    "element_of_symbol": ("{S} is the symbol of {a}.", "On the periodic table, {s} means {a}."),
    "element_number": (
        "{S} has the atomic number {a}.",
        "{P} atomic number is {a}.",
        "{S} is element number {a}.",
    ),
    "element_of_number": ("Element number {s} is {a}.", "Atomic number {s} belongs to {a}."),
    "element_category": ("{S} is {an_a}.", "Chemists call {s} {an_a}."),
    "element_state": ("{S} is a {a} at room temperature.",),
    "element_use": ("{S} is used for {a}.", "People use {s} for {a}."),
    "planet_order": ("{S} is number {a} among the planets, counted from the Sun.",),
    "planet_kind": ("{S} is {an_a}.", "Astronomers call {s} {an_a}."),
    "planet_fame": ("{S} is famous for {a}.",),
    "month_number": ("{S} is month number {a} of the year.", "In the calendar, {s} comes as number {a}."),
    "month_days": ("{S} has {a} days.", "There are {a} days in {s}."),
    "month_after": ("{S} is followed by {a}.", "After {s} comes {a}."),
    "month_before": ("Before {s} comes {a}.",),
    "weekday_after": ("{S} is followed by {a}.", "After {s} comes {a}.", "If today is {s}, tomorrow is {a}."),
    "weekday_before": ("Before {s} comes {a}.", "If today is {s}, yesterday was {a}."),
    "animal_kind": ("{S} is {an_a}.",),
    "animal_young": (
        "A young {n} is called {an_a}.",
        "The word for a young {n} is {a}.",
        "When {s} has a young one, it is {an_a}.",
    ),
    "animal_sound": ("{S} {a}.", "When you hear {s}, it {a}."),
    "animal_diet": ("{S} is {an_a}.",),
    "animal_habitat": ("{S} lives {a}.",),
    "animal_legs": ("{S} has {a} legs.",),
    "thing_purpose": (
        "{S} is for {a}.",
        "People use {s} for {a}.",
        "For {a}, people use {s}.",
        "The purpose of {s} is {a}.",
    ),
    "thing_place": ("People keep {s} {a}.", "You will find {s} {a}."),
    "thing_material": ("Most often, {s} is made of {a}.",),
}
"""Relation -> other ways to tell it. Besides the fields of `facts.CANONICAL`: {A} the answer at the
start of a sentence, {P} the possessive ("France's"), {n} the subject without its article."""


def say(fact: Fact, rng: random.Random, canonical_share: float = CANONICAL_SHARE) -> str:
    """The fact as a sentence."""
    if rng.random() < canonical_share:
        return statement(fact)
    return fill(rng.choice(STATEMENTS[fact.relation]), fact)


_NOUN_ANSWERS = frozenset(
    {"animal_young", "animal_kind", "animal_diet", "element_category", "element_state", "planet_kind"}
)
"""Relations whose answers are nouns that want an article."""


def short_answer(fact: Fact) -> str:
    """The answer alone, as one would write it: "Paris", "The euro", "A puppy"."""
    if fact.relation == "currency":
        return f"The {fact.answer}"
    if fact.relation in _NOUN_ANSWERS:
        return capitalize(with_article(fact.answer))
    if fact.relation == "animal_sound":
        return f"It {fact.answer}"
    return capitalize(fact.answer) if fact.relation != "element_symbol" else fact.answer


def fill(template: str, fact: Fact) -> str:
    """`template` with the fact's words in its fields."""
    owner = possessive(fact.subject)
    return template.format(
        s=fact.subject,
        S=capitalize(fact.subject),
        a=fact.answer,
        A=capitalize(fact.answer),
        an_a=with_article(fact.answer),
        p=owner,
        P=capitalize(owner),
        n=fact.subject.removeprefix("an ").removeprefix("a "),
    )


def possessive(noun: str) -> str:
    """ "France's", "the Netherlands'"."""
    return f"{noun}'" if noun.endswith("s") else f"{noun}'s"


def listed(words: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


class Deck(Generic[T]):
    """Draws every item once a round, each round in a fresh order: random, yet none is rare."""

    def __init__(self, items: Sequence[T], rng: random.Random) -> None:
        assert items, "an empty deck has nothing to draw"
        self._items = items
        self._rng = rng
        self._rest: Iterator[T] = iter(())

    def draw(self) -> T:
        """The next item."""
        for item in self._rest:
            return item
        self._rest = iter(self._rng.sample(self._items, len(self._items)))
        return next(self._rest)

    def hand(self, count: int) -> list[T]:
        """The next `count` items."""
        return [self.draw() for _ in range(count)]
