"""Facts of all kinds, shuffled, several to a document: the bulk of what is to be known."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

from modelwright.data.atlas.facts import RELATIONS, Fact, facts, statement
from modelwright.data.atlas.phrasing import Deck, say
from modelwright.data.atlas.world import World

WEIGHTS: Mapping[str, int] = {
    "capital_of": 4,
    "element_of_symbol": 3,
    "element_of_number": 6,
    "continent": 3,
    "neighbour": 3,
    "element_symbol": 3,
    "element_number": 6,
    "element_category": 3,
    "element_use": 3,
    "planet_order": 8,
    "planet_kind": 4,
    "planet_fame": 3,
    "month_number": 8,
    "month_days": 4,
    "month_after": 8,
    "month_before": 8,
    "weekday_after": 10,
    "weekday_before": 10,
    "animal_kind": 3,
    "animal_young": 3,
    "animal_sound": 3,
    "animal_habitat": 3,
    "animal_legs": 3,
    "thing_purpose": 3,
    "thing_place": 3,
}
"""How often a fact of a relation comes up in one round over all facts; twice where not named. Small
relations and those that a short training learned last weigh more."""

USUAL_WEIGHT = 2

_SEPARATORS = (" ", " ", "\n", "\n- ")


def fact_lists(world: World, rng: random.Random) -> Iterator[str]:
    """Six to fourteen facts in no order. Half the documents open with a capital, in its plain form."""
    capitals = Deck(facts(world, "capital"), rng)
    deck = Deck(one_round(world), rng)
    while True:
        sentences = [statement(capitals.draw())] if rng.random() < 0.5 else []
        sentences += [say(fact, rng) for fact in deck.hand(rng.randint(6, 14))]
        separator = rng.choice(_SEPARATORS)
        text = separator.join(sentences)
        yield f"- {text}" if separator == "\n- " else text


def one_round(world: World) -> tuple[Fact, ...]:
    """Every fact as often as its relation weighs."""
    return tuple(
        fact
        for relation in RELATIONS
        for fact in facts(world, relation)
        for _ in range(WEIGHTS.get(relation, USUAL_WEIGHT))
    )
