"""Short encyclopaedia paragraphs: one subject, several of its facts, in any order."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from modelwright.data.atlas.facts import ORDINALS, capitalize
from modelwright.data.atlas.phrasing import Deck, listed
from modelwright.data.atlas.world import (
    Animal,
    Country,
    Element,
    Month,
    Planet,
    Thing,
    Weekday,
    World,
    with_article,
)

Paragraph = Callable[[], str]
MIN_CHARACTERS = 250


def paragraphs(world: World, rng: random.Random) -> Iterator[str]:
    """Paragraphs of about 200 to 600 characters; short ones are put together in pairs or threes."""
    deck = Deck(_subjects(world, rng), rng)
    while True:
        text = deck.draw()()
        while len(text) < MIN_CHARACTERS:
            text = f"{text}\n\n{deck.draw()()}"
        yield text


def _subjects(world: World, rng: random.Random) -> list[Paragraph]:
    """One writer for each subject; countries and the small tables come up more than once a round."""
    writers: list[Paragraph] = []
    for c in world.countries:
        writers += [lambda c=c: _country(c, world, rng)] * 3
    writers += [lambda e=e: _element(e, rng) for e in world.elements] * 2
    writers += [lambda a=a: _animal(a, rng) for a in world.animals] * 2
    writers += [lambda t=t: _thing(t, rng) for t in world.things] * 2
    writers += [lambda p=p: _planet(p, rng) for p in world.planets] * 4
    writers += [lambda m=m: _month(m, world, rng) for m in world.months] * 3
    writers += [lambda d=d: _weekday(d, world) for d in world.weekdays] * 3
    return writers


def _shuffled(opening: str, sentences: list[str], rng: random.Random) -> str:
    kept = [sentence for sentence in sentences if sentence]
    rng.shuffle(kept)
    return " ".join([opening, *kept])


def _country(c: Country, world: World, rng: random.Random) -> str:
    name = capitalize(c.phrase)
    neighbours = listed([world.country(neighbour).phrase for neighbour in c.neighbours])
    languages = listed(c.languages)
    many = len(c.languages) > 1
    return _shuffled(
        rng.choice(
            (
                f"{name} is a country in {c.continent}.",
                f"{name} is a country. It lies in {c.continent}.",
                f"{name} is one of the countries of {c.continent}.",
            )
        ),
        [
            rng.choice(
                (
                    f"Its capital is {c.capital}.",
                    f"The capital of {c.phrase} is {c.capital}.",
                    f"The capital of {c.phrase} is {c.capital}.",
                    f"{c.capital} is its capital.",
                )
            ),
            rng.choice((f"The currency is the {c.currency}.", f"People there pay with the {c.currency}.")),
            f"The official languages are {languages}." if many else f"The official language is {languages}.",
            f"It borders {neighbours}." if neighbours else "It has no land border with another country.",
            f"In German it is called {c.names['de']}, in Spanish {c.names['es']}."
            if rng.random() < 0.2
            else "",
        ],
        rng,
    )


def _element(e: Element, rng: random.Random) -> str:
    name = capitalize(e.name)
    category = with_article(e.category) if e.category else "an element"
    return _shuffled(
        rng.choice((f"{name} is a chemical element.", f"{name} is one of the chemical elements.")),
        [
            rng.choice((f"Its symbol is {e.symbol}.", f"The chemical symbol for {e.name} is {e.symbol}.")),
            rng.choice(
                (f"Its atomic number is {e.number}.", f"The atomic number of {e.name} is {e.number}.")
            ),
            f"It is {category}." if e.category else "Very little of it has ever been made.",
            f"At room temperature it is a {e.state}." if e.state else "",
            f"It is used for {e.use}." if e.use else "",
        ],
        rng,
    )


def _animal(a: Animal, rng: random.Random) -> str:
    return _shuffled(
        rng.choice(
            (
                f"{capitalize(a.phrase)} is {with_article(a.kind)}.",
                f"{capitalize(a.phrase)} is a kind of {a.kind}.",
                f"{capitalize(a.phrase)} is an animal. It is {with_article(a.kind)}.",
            )
        ),
        [
            rng.choice((f"It lives {a.habitat}.", f"You can find it {a.habitat}.")),
            f"It is {with_article(a.diet)}, which means that it eats {_FOOD[a.diet]}.",
            rng.choice(
                (
                    f"A young {a.name} is called {with_article(a.young)}.",
                    f"Its young is called {with_article(a.young)}.",
                )
            ),
            f"It has {a.legs} legs." if a.legs else "It has no legs." if a.legs == 0 else "",
            f"It {a.movement}, and when you hear it, it {a.sound}." if a.sound else f"It {a.movement}.",
        ],
        rng,
    )


_FOOD = {"herbivore": "plants", "carnivore": "other animals", "omnivore": "both plants and animals"}


def _thing(t: Thing, rng: random.Random) -> str:
    name = capitalize(t.phrase)
    return _shuffled(
        rng.choice((f"{name} is an everyday object.", f"{name} is something that many people own.")),
        [
            rng.choice((f"It is used for {t.purpose}.", f"It is for {t.purpose}.")),
            rng.choice((f"It is kept {t.place}.", f"You will find it {t.place}.")),
            f"It is usually made of {t.material}.",
        ],
        rng,
    )


def _planet(p: Planet, rng: random.Random) -> str:
    moons = {
        None: "Many moons circle it.",
        0: "It has no moon.",
        1: "It has one moon.",
        2: "It has two moons.",
    }
    return _shuffled(
        f"{p.name} is a planet of the Solar System.",
        [
            rng.choice(
                (
                    f"Counting from the Sun, it is planet number {p.order}.",
                    f"It is the {ORDINALS[p.order]} planet from the Sun.",
                )
            ),
            f"It is {with_article(p.kind)}.",
            f"It is known for {p.known_for}.",
            "It has rings." if p.rings else "It has no rings.",
            moons[p.moons],
        ],
        rng,
    )


def _month(m: Month, world: World, rng: random.Random) -> str:
    names = [month.name for month in world.months]
    before, after = names[m.number - 2], names[m.number % 12]
    return _shuffled(
        f"{m.name} is a month.",
        [
            rng.choice(
                (
                    f"Counting from January, it is month number {m.number}.",
                    f"It is the {ORDINALS[m.number]} month of the year.",
                )
            ),
            f"{m.name} has {m.days} days." if m.days != 28 else "It has 28 days, and 29 in a leap year.",
            f"It comes after {before} and before {after}.",
            f"In the north of the world it belongs to {m.season}.",
        ],
        rng,
    )


def _weekday(d: Weekday, world: World) -> str:
    names = [day.name for day in world.weekdays]
    before, after = names[d.number - 2], names[d.number % 7]
    rest = "a day of the weekend" if d.number > 5 else "a working day for many people"
    return f"{d.name} is {rest}. The day before {d.name} is {before}, and the day after {d.name} is {after}."
