"""Countries and capitals in other languages, in forms that need neither article nor declension."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

from modelwright.data.atlas.facts import capitalize
from modelwright.data.atlas.phrasing import Deck
from modelwright.data.atlas.world import LANGUAGES, Country, World

LABELS: Mapping[str, tuple[str, str]] = {
    "de": ("Land", "Hauptstadt"),
    "fr": ("Pays", "Capitale"),
    "es": ("País", "Capital"),
    "ru": ("Страна", "Столица"),
    "el": ("Χώρα", "Πρωτεύουσα"),
    "ja": ("国", "首都"),
    "ar": ("البلد", "العاصمة"),
}
"""Language code -> the words for "country" and "capital" that head a list."""


def multilingual(world: World, rng: random.Random) -> Iterator[str]:
    """In turn: one country in all languages, translation lines, and lists in one language."""
    countries = Deck(world.countries, rng)
    translated = {code: Deck(world.countries, rng) for code in LANGUAGES}
    listed = {code: Deck(world.countries, rng) for code in LANGUAGES}
    languages = Deck(tuple(LANGUAGES), rng)
    while True:
        yield _one_country(countries.draw(), rng)
        code = languages.draw()
        yield _translations(translated[code].hand(rng.randint(5, 8)), code, rng)
        for _ in range(2):
            code = languages.draw()
            yield _in_one_language(listed[code].hand(rng.randint(7, 11)), code, rng)


def _one_country(c: Country, rng: random.Random) -> str:
    codes = rng.sample(tuple(LANGUAGES), len(LANGUAGES))
    lines = [f"{LANGUAGES[code]}: {c.names[code]} – {c.capitals[code]}" for code in codes]
    heading = rng.choice(
        (
            f"{capitalize(c.phrase)} and its capital {c.capital} in other languages:",
            f"How people call {c.phrase} and {c.capital}, its capital:",
        )
    )
    return "\n".join([heading, *lines])


def _translations(countries: list[Country], code: str, rng: random.Random) -> str:
    language = LANGUAGES[code]
    sentences: list[str] = []
    for c in countries:
        names = [(c.phrase, c.names[code]), (c.capital, c.capitals[code])]
        for english, foreign in rng.sample(names, rng.choice((1, 2))):
            template = rng.choice(
                (
                    "{E} in {language} is {foreign}.",
                    "The {language} name of {e} is {foreign}.",
                    "In {language}, {e} is called {foreign}.",
                )
            )
            sentences.append(
                template.format(e=english, E=capitalize(english), foreign=foreign, language=language)
            )
    return rng.choice((" ", "\n")).join(sentences)


def _in_one_language(countries: list[Country], code: str, rng: random.Random) -> str:
    country, capital = LABELS[code]
    plain = "{country}: {c}. {capital}: {k}."
    style = rng.choice((plain, plain, "{c} – {capital}: {k}.", "{c}: {capital} – {k}."))
    return "\n".join(
        style.format(country=country, capital=capital, c=c.names[code], k=c.capitals[code]) for c in countries
    )
