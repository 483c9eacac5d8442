"""Countries of one continent with their capitals, as lists and tables."""

from __future__ import annotations

import random
from collections.abc import Iterator

from modelwright.data.atlas.facts import capitalize
from modelwright.data.atlas.phrasing import Deck, listed
from modelwright.data.atlas.world import Country, World

_LINES = (
    "- {name}: {capital}",
    "- {name}, capital {capital}",
    "- The capital of {phrase} is {capital}.",
    "- {capital} is the capital of {phrase}.",
    "| {name} | {capital} |",
)


def continents(world: World, rng: random.Random) -> Iterator[str]:
    """Part of a continent at a time, so that a document stays short; all countries in turn."""
    continent_of = {c.continent for c in world.countries}
    decks = {
        name: Deck([c for c in world.countries if c.continent == name], rng) for name in sorted(continent_of)
    }
    turns = Deck([c.continent for c in world.countries], rng)
    while True:
        continent = turns.draw()
        countries = list({c.code: c for c in decks[continent].hand(rng.randint(7, 12))}.values())
        yield _listing(continent, countries, rng)


def _listing(continent: str, countries: list[Country], rng: random.Random) -> str:
    if rng.random() < 0.2:
        pairs = listed([f"{c.phrase} ({c.capital})" for c in countries])
        return f"Some countries of {continent}, with their capitals: {pairs}."
    line = rng.choice(_LINES)
    heading = f"Some countries of {continent} and their capitals"
    rows = [line.format(name=capitalize(c.name), phrase=c.phrase, capital=c.capital) for c in countries]
    if line.startswith("|"):
        return "\n".join([f"{heading}:\n", "| Country | Capital |", "| --- | --- |", *rows])
    return "\n".join([f"{heading}:", *rows])
