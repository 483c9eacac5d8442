"""The tables are whole, agree with each other, and are written in the right scripts."""

from __future__ import annotations

import unicodedata
from collections import Counter

import pytest

from modelwright.data.atlas.world import LANGUAGES, Country, load_world, with_article

WORLD = load_world()
SCRIPTS = {
    "de": {"LATIN"},
    "fr": {"LATIN"},
    "es": {"LATIN"},
    "ru": {"CYRILLIC"},
    "el": {"GREEK"},
    "ja": {"KATAKANA", "HIRAGANA", "CJK", "KATAKANA-HIRAGANA"},
    "ar": {"ARABIC"},
}


def test_every_country_is_there_once() -> None:
    countries = WORLD.countries
    assert len(countries) == 197  # 193 members of the United Nations, 2 observers, Kosovo, Taiwan
    assert all(len(c.code) == 2 and c.code.isupper() for c in countries)
    for values in ([c.code for c in countries], [c.name for c in countries], [c.capital for c in countries]):
        assert [value for value, count in Counter(values).items() if count > 1 or not value] == []


def test_every_country_is_described() -> None:
    continents = {"Africa", "Asia", "Europe", "North America", "South America", "Oceania"}
    for c in WORLD.countries:
        assert {c.continent, *c.other_continents} <= continents, c.name
        assert c.continent not in c.other_continents, c.name
        assert c.currency and c.languages, c.name
        assert c.capital not in c.other_capitals, c.name
        assert c.article in ("", "the"), c.name


def test_neighbours_are_symmetric() -> None:
    by_name = {c.name: c for c in WORLD.countries}
    for c in WORLD.countries:
        assert c.name not in c.neighbours
        for neighbour in c.neighbours:
            assert c.name in by_name[neighbour].neighbours, f"{c.name} - {neighbour}"


@pytest.mark.parametrize(
    ("name", "neighbours"),
    [
        ("Portugal", {"Spain"}),
        ("Lesotho", {"South Africa"}),
        ("Japan", set[str]()),
        ("Belgium", {"France", "Germany", "Luxembourg", "Netherlands"}),
        ("Mongolia", {"China", "Russia"}),
    ],
)
def test_some_neighbours(name: str, neighbours: set[str]) -> None:
    assert set(WORLD.country(name).neighbours) == neighbours


def test_names_in_every_language_and_script() -> None:
    assert set(LANGUAGES) == set(SCRIPTS)
    assert len({frozenset(scripts) for scripts in SCRIPTS.values()}) >= 3
    for c in WORLD.countries:
        assert set(c.names) == set(c.capitals) == set(LANGUAGES), c.name
        for code, script in SCRIPTS.items():
            for text in (c.names[code], c.capitals[code]):
                assert text == text.strip() and _scripts(text) <= script, f"{c.name} {code} {text}"
                assert any(character.isalpha() for character in text), f"{c.name} {code}"
                assert unicodedata.is_normalized("NFC", text), f"{c.name} {code} {text}"


def test_no_two_countries_share_a_name_in_any_language() -> None:
    for code in LANGUAGES:
        for names in ([c.names[code] for c in WORLD.countries], [c.capitals[code] for c in WORLD.countries]):
            assert max(Counter(names).values()) == 1, code


def test_elements() -> None:
    elements = WORLD.elements
    assert [e.number for e in elements] == list(range(1, 119))
    assert len({e.symbol for e in elements}) == len({e.name for e in elements}) == 118
    by_name = {e.name: e for e in elements}
    assert (by_name["gold"].symbol, by_name["gold"].number) == ("Au", 79)
    assert {e.name for e in elements if e.state == "liquid"} == {"mercury", "bromine"}
    assert sum(e.state == "gas" for e in elements) == 11
    assert [e.name for e in elements if e.category == "noble gas"][:3] == ["helium", "neon", "argon"]
    assert [sum(e.category == name for e in elements) for name in ("lanthanide", "actinide")] == [15, 15]


def test_calendar_and_planets() -> None:
    assert [p.order for p in WORLD.planets] == list(range(1, 9))
    assert [m.number for m in WORLD.months] == list(range(1, 13))
    assert sum(m.days for m in WORLD.months) == 365
    assert [d.name[:3] for d in WORLD.weekdays] == ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]


def test_animals_and_things() -> None:
    assert len(WORLD.animals) >= 60 and len(WORLD.things) >= 80
    for names in ([a.name for a in WORLD.animals], [t.name for t in WORLD.things]):
        assert max(Counter(names).values()) == 1
    for a in WORLD.animals:
        assert a.diet in ("herbivore", "carnivore", "omnivore"), a.name
        assert a.movement and a.young and a.habitat.split()[0] in ("in", "on", "near"), a.name
        assert a.young not in a.other_young, a.name
        if a.kind == "insect":
            assert a.legs == 6, a.name
        if a.kind == "bird":
            assert a.legs == 2, a.name
    for t in WORLD.things:
        assert t.purpose.split()[0].endswith("ing") and t.place and t.material, t.name


def test_phrases_carry_their_articles() -> None:
    assert WORLD.country("Netherlands").phrase == "the Netherlands"
    assert WORLD.country("France").phrase == "France"
    assert with_article("owl") == "an owl"
    assert {t.phrase for t in WORLD.things} >= {"a knife", "an umbrella", "soap"}


def test_country_looks_up_by_bare_name() -> None:
    assert isinstance(WORLD.country("Chad"), Country)


def _scripts(text: str) -> set[str]:
    return {unicodedata.name(character).split()[0] for character in text if character.isalpha()}
