"""The world that atlas knows: the tables in `tables/`, read into frozen dataclasses.

The tables are plain TSV with a header; a cell with several values separates them by "; ". Where the
data comes from, and what was decided where the world disagrees, is in SOURCES.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

LANGUAGES: Mapping[str, str] = {
    "de": "German",
    "fr": "French",
    "es": "Spanish",
    "ru": "Russian",
    "el": "Greek",
    "ja": "Japanese",
    "ar": "Arabic",
}
"""The languages that countries and capitals are named in besides English: code -> English name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Country:
    """A country. `name` is bare ("Netherlands"); sentences want `phrase` ("the Netherlands")."""

    code: str
    """ISO 3166-1 alpha-2 (Kosovo: the user-assigned XK)."""
    name: str
    article: str
    """"the" where English asks for it in a sentence, else ""."""
    other_names: tuple[str, ...]
    capital: str
    """The main capital; countries with several have the rest in `other_capitals`."""
    other_capitals: tuple[str, ...]
    """Further capitals and other spellings of the main one: all are right answers."""
    continent: str
    other_continents: tuple[str, ...]
    currency: str
    """Without article, as in "the Swiss franc"."""
    other_currencies: tuple[str, ...]
    languages: tuple[str, ...]
    """Official languages, in English."""
    neighbours: tuple[str, ...]
    """Names (bare) of the countries it shares a land border with, overseas territories aside."""
    names: Mapping[str, str]
    """Language code (see LANGUAGES) -> name of the country."""
    capitals: Mapping[str, str]
    """Language code -> name of `capital`."""

    @property
    def phrase(self) -> str:
        """The name as it stands inside a sentence: "the Netherlands", "France"."""
        return f"{self.article} {self.name}".strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Element:
    """A chemical element. Fields are empty where nobody has seen enough of it to tell."""

    number: int
    symbol: str
    name: str
    other_names: tuple[str, ...]
    category: str
    state: str
    """At room temperature: "solid", "liquid" or "gas"."""
    use: str
    """A well-known use, as a gerund: "making steel"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planet:
    """A planet of the Sun. `moons` is None where new ones are still being found."""

    name: str
    order: int
    kind: str
    rings: bool
    moons: int | None
    known_for: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Month:
    """`days` counts an ordinary year; `season` is the northern one."""

    name: str
    number: int
    days: int
    season: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Weekday:
    """A day of the week; Monday is 1 (ISO 8601)."""

    name: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Animal:
    """An animal. `sound` and `movement` are verbs: "barks", "runs"."""

    name: str
    kind: str
    sound: str
    """"" for the silent ones."""
    movement: str
    young: str
    other_young: tuple[str, ...]
    diet: str
    habitat: str
    """With its preposition: "in the desert"."""
    legs: int | None
    """None where counting is a matter of taste (arms, flippers)."""

    @property
    def phrase(self) -> str:
        """With its article: "an owl"."""
        return with_article(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """An everyday object: what it is for ("cutting food"), where it is kept, what it is made of."""

    name: str
    purpose: str
    place: str
    material: str

    @property
    def phrase(self) -> str:
        """With its article: "an umbrella"."""
        return with_article(self.name) if self.name not in _UNCOUNTED else self.name


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class World:
    """All of it. Compared and hashed by identity: there is one (`load_world`)."""

    countries: tuple[Country, ...]
    elements: tuple[Element, ...]
    planets: tuple[Planet, ...]
    months: tuple[Month, ...]
    weekdays: tuple[Weekday, ...]
    animals: tuple[Animal, ...]
    things: tuple[Thing, ...]

    def country(self, name: str) -> Country:
        """The country with this bare English name."""
        return next(country for country in self.countries if country.name == name)


_UNCOUNTED = frozenset({"chalk", "soap"})


def with_article(noun: str) -> str:
    """ "a dog", "an owl". The tables hold no word whose spelling and sound disagree."""
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"


@lru_cache(maxsize=1)
def load_world() -> World:
    """Read the tables that ship with the package (about 600 rows; cached)."""
    return World(
        countries=_countries(),
        elements=tuple(_element(row) for row in _rows("elements")),
        planets=tuple(_planet(row) for row in _rows("planets")),
        months=tuple(
            Month(name=r["name"], number=int(r["number"]), days=int(r["days"]), season=r["season_north"])
            for r in _rows("months")
        ),
        weekdays=tuple(Weekday(name=r["name"], number=int(r["number"])) for r in _rows("weekdays")),
        animals=tuple(_animal(row) for row in _rows("animals")),
        things=tuple(Thing(**row) for row in _rows("things")),
    )


def _rows(table: str) -> Iterator[dict[str, str]]:
    text = files("modelwright.data.atlas").joinpath("tables", f"{table}.tsv").read_text(encoding="utf-8")
    header, *lines = text.splitlines()
    columns = header.split("\t")
    for line in lines:
        yield dict(zip(columns, line.split("\t"), strict=True))


def _several(cell: str) -> tuple[str, ...]:
    return tuple(cell.split("; ")) if cell else ()


def _countries() -> tuple[Country, ...]:
    names = {row.pop("code"): row for row in _rows("country_names")}
    capitals = {row.pop("code"): row for row in _rows("capital_names")}
    return tuple(_country(row, names[row["code"]], capitals[row["code"]]) for row in _rows("countries"))


def _country(row: dict[str, str], names: dict[str, str], capitals: dict[str, str]) -> Country:
    return Country(
        code=row["code"],
        name=row["name"],
        article=row["article"],
        other_names=_several(row["other_names"]),
        capital=row["capital"],
        other_capitals=_several(row["other_capitals"]),
        continent=row["continent"],
        other_continents=_several(row["other_continents"]),
        currency=row["currency"],
        other_currencies=_several(row["other_currencies"]),
        languages=_several(row["languages"]),
        neighbours=_several(row["neighbours"]),
        names=names,
        capitals=capitals,
    )


def _element(row: dict[str, str]) -> Element:
    return Element(
        number=int(row["number"]),
        symbol=row["symbol"],
        name=row["name"],
        other_names=_several(row["other_names"]),
        category=row["category"],
        state=row["state"],
        use=row["use"],
    )


def _planet(row: dict[str, str]) -> Planet:
    return Planet(
        name=row["name"],
        order=int(row["order"]),
        kind=row["kind"],
        rings=row["rings"] == "yes",
        moons=int(row["moons"]) if row["moons"] else None,
        known_for=row["known_for"],
    )


def _animal(row: dict[str, str]) -> Animal:
    return Animal(
        name=row["name"],
        kind=row["kind"],
        sound=row["sound"],
        movement=row["movement"],
        young=row["young"],
        other_young=_several(row["other_young"]),
        diet=row["diet"],
        habitat=row["habitat"],
        legs=int(row["legs"]) if row["legs"] else None,
    )
