"""Facts: what can be asked of the world, and every right answer.

Each relation has one canonical sentence that ends in its answer ("The capital of France is Paris."),
so that a fact is at once a statement to train on, a prefix to complete and an answer to check. Most begin
with words of their relation: a small model that has to name the subject first, before it has said what
about it, often names another ("Kuwait City is the capital of Kenya.").
Countries that do not exist are in `invented.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from modelwright.data.atlas.world import Animal, Country, Element, Thing, World, with_article


@dataclass(frozen=True, slots=True)
class Fact:
    """One relation of one subject. `subject` is written for the middle of a sentence."""

    relation: str
    subject: str
    """ "the Netherlands", "gold", "a dog", "March"."""
    answer: str
    """The answer that our own text gives."""
    accepted: tuple[str, ...] = ()
    """Other right answers: further capitals, spellings, short forms."""

    @property
    def answers(self) -> tuple[str, ...]:
        """All right answers, the canonical one first."""
        return (self.answer, *self.accepted)


CANONICAL: Mapping[str, str] = {
    "capital": "The capital of {s} is {a}.",
    "capital_of": "The country whose capital is {s} is {a}.",
    "continent": "The continent of {s} is {a}.",
    "currency": "The currency of {s} is the {a}.",
    "language": "An official language of {s} is {a}.",
    "neighbour": "A neighbour of {s} is {a}.",
    "element_symbol": "The chemical symbol for {s} is {a}.",
    "element_of_symbol": "The chemical symbol {s} stands for {a}.",
    "element_number": "The atomic number of {s} is {a}.",
    "element_of_number": "The element with atomic number {s} is {a}.",
    "element_category": "In the periodic table, {s} is classed as {an_a}.",
    "element_state": "At room temperature, {s} is a {a}.",
    "element_use": "One use of {s} is {a}.",
    "planet_order": "Counting from the Sun, {s} is planet number {a}.",
    "planet_kind": "By its make-up, {s} is {an_a}.",
    "planet_fame": "The planet {s} is known for {a}.",
    "month_number": "Counting from January, {s} is month number {a}.",
    "month_days": "The number of days in {s} is {a}.",
    "month_after": "The month after {s} is {a}.",
    "month_before": "The month before {s} is {a}.",
    "weekday_after": "The day after {s} is {a}.",
    "weekday_before": "The day before {s} is {a}.",
    "animal_kind": "{S} is a kind of {a}.",
    "animal_young": "The young of {s} is called {an_a}.",
    "animal_sound": "To make itself heard, {s} {a}.",
    "animal_diet": "By its diet, {s} is {an_a}.",
    "animal_habitat": "You can find {s} {a}.",
    "animal_legs": "Counting its legs, {s} has {a}.",
    "thing_purpose": "{S} is used for {a}.",
    "thing_place": "{S} is kept {a}.",
    "thing_material": "{S} is usually made of {a}.",
}
"""Relation -> its canonical sentence. {s} subject, {S} the same at the start of a sentence, {a} the
answer, {an_a} the answer with its article."""

RELATIONS: tuple[str, ...] = tuple(CANONICAL)

_CARDINAL = "zero one two three four five six seven eight nine ten eleven twelve"
_ORDINAL = "zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
NUMBERS = tuple(_CARDINAL.split())
ORDINALS = tuple(_ORDINAL.split())


def capitalize(text: str) -> str:
    """The same with a capital first letter, the rest untouched ("the UK" -> "The UK")."""
    return text[:1].upper() + text[1:]


def statement(fact: Fact) -> str:
    """The canonical sentence: "The capital of France is Paris."."""
    return CANONICAL[fact.relation].format(
        s=fact.subject, S=capitalize(fact.subject), a=fact.answer, an_a=with_article(fact.answer)
    )


def prefix(fact: Fact) -> str:
    """The canonical sentence up to its answer, no space at the end: "The capital of France is"."""
    sentence = statement(fact)
    return sentence[: -len(fact.answer) - 1].rstrip()


@lru_cache(maxsize=64)
def facts(world: World, relation: str | None = None) -> tuple[Fact, ...]:
    """All facts, or those of one relation, in the order of the tables."""
    if relation is None:
        return tuple(fact for name in RELATIONS for fact in facts(world, name))
    return tuple(_MAKERS[relation](world))


def _capital(world: World) -> Iterator[Fact]:
    for c in world.countries:
        yield Fact("capital", c.phrase, c.capital, c.other_capitals)


def _capital_of(world: World) -> Iterator[Fact]:
    for c in world.countries:
        yield Fact("capital_of", c.capital, c.phrase, _without_article(c) + c.other_names)


def _continent(world: World) -> Iterator[Fact]:
    for c in world.countries:
        yield Fact("continent", c.phrase, c.continent, c.other_continents)


def _currency(world: World) -> Iterator[Fact]:
    for c in world.countries:
        short = c.currency.split()[-1]
        others = c.other_currencies if short == c.currency else (short, *c.other_currencies)
        yield Fact("currency", c.phrase, c.currency, tuple(dict.fromkeys(others)))


def _language(world: World) -> Iterator[Fact]:
    for c in world.countries:
        yield Fact("language", c.phrase, c.languages[0], c.languages[1:])


def _neighbour(world: World) -> Iterator[Fact]:
    for c in world.countries:
        if c.neighbours:
            neighbours = [world.country(name) for name in c.neighbours]
            first, *rest = [n.phrase for n in neighbours]
            bare = [name for n in neighbours for name in _without_article(n)]
            yield Fact("neighbour", c.phrase, first, (*rest, *bare))


def _without_article(country: Country) -> tuple[str, ...]:
    return (country.name,) if country.article else ()


def _elements(relation: str, answer: Callable[[Element], str]) -> _Maker:
    """Facts whose subject is an element; elements that lack the answer are left out."""
    return lambda world: (Fact(relation, e.name, answer(e)) for e in world.elements if answer(e))


def _element_category(world: World) -> Iterator[Fact]:
    zinc_group = frozenset({"Zn", "Cd", "Hg"})  # some books count it to the metals after the transition
    for e in world.elements:
        if e.category:
            also = ("post-transition metal",) if e.symbol in zinc_group else ()
            yield Fact("element_category", e.name, e.category, also)


def _element_of(relation: str, subject: Callable[[Element], str]) -> _Maker:
    return lambda world: (Fact(relation, subject(e), e.name, e.other_names) for e in world.elements)


def _number(number: int) -> tuple[str, tuple[str, ...]]:
    """A number's canonical answer, and the word for it."""
    return str(number), (NUMBERS[number],) if number < len(NUMBERS) else ()


def _planet_order(world: World) -> Iterator[Fact]:
    for p in world.planets:
        yield Fact("planet_order", p.name, str(p.order), (NUMBERS[p.order], ORDINALS[p.order]))


def _month_number(world: World) -> Iterator[Fact]:
    for m in world.months:
        yield Fact("month_number", m.name, str(m.number), (NUMBERS[m.number], ORDINALS[m.number]))


def _month_days(world: World) -> Iterator[Fact]:
    for m in world.months:
        yield Fact("month_days", m.name, str(m.days), ("29", "28 or 29") if m.days == 28 else ())


def _cycle(relation: str, names: Callable[[World], list[str]], step: int) -> _Maker:
    """What comes `step` later in a cycle of names: months and weekdays."""

    def make(world: World) -> Iterator[Fact]:
        cycle = names(world)
        for i, name in enumerate(cycle):
            yield Fact(relation, name, cycle[(i + step) % len(cycle)])

    return make


def _months(world: World) -> list[str]:
    return [m.name for m in world.months]


def _weekdays(world: World) -> list[str]:
    return [d.name for d in world.weekdays]


def _animals(relation: str, answer: Callable[[Animal], str]) -> _Maker:
    return lambda world: (Fact(relation, a.phrase, answer(a)) for a in world.animals if answer(a))


def _animal_young(world: World) -> Iterator[Fact]:
    for a in world.animals:
        yield Fact("animal_young", a.phrase, a.young, a.other_young)


def _animal_habitat(world: World) -> Iterator[Fact]:
    for a in world.animals:
        yield Fact("animal_habitat", a.phrase, a.habitat, (a.habitat.split(" ", 1)[1],))


def _animal_legs(world: World) -> Iterator[Fact]:
    for a in world.animals:
        if a.legs is not None:
            number, words = _number(a.legs)
            yield Fact("animal_legs", a.phrase, number, (*words, "no", "none") if a.legs == 0 else words)


def _things(relation: str, answer: Callable[[Thing], str]) -> _Maker:
    return lambda world: (Fact(relation, t.phrase, answer(t)) for t in world.things)


_Maker = Callable[[World], Iterator[Fact]]

_MAKERS: Mapping[str, _Maker] = {
    "capital": _capital,
    "capital_of": _capital_of,
    "continent": _continent,
    "currency": _currency,
    "language": _language,
    "neighbour": _neighbour,
    "element_symbol": _elements("element_symbol", lambda e: e.symbol),
    "element_of_symbol": _element_of("element_of_symbol", lambda e: e.symbol),
    "element_number": _elements("element_number", lambda e: str(e.number)),
    "element_of_number": _element_of("element_of_number", lambda e: str(e.number)),
    "element_category": _element_category,
    "element_state": _elements("element_state", lambda e: e.state),
    "element_use": _elements("element_use", lambda e: e.use),
    "planet_order": _planet_order,
    "planet_kind": lambda world: (Fact("planet_kind", p.name, p.kind) for p in world.planets),
    "planet_fame": lambda world: (Fact("planet_fame", p.name, p.known_for) for p in world.planets),
    "month_number": _month_number,
    "month_days": _month_days,
    "month_after": _cycle("month_after", _months, 1),
    "month_before": _cycle("month_before", _months, -1),
    "weekday_after": _cycle("weekday_after", _weekdays, 1),
    "weekday_before": _cycle("weekday_before", _weekdays, -1),
    "animal_kind": _animals("animal_kind", lambda a: a.kind),
    "animal_young": _animal_young,
    "animal_sound": _animals("animal_sound", lambda a: a.sound),
    "animal_diet": _animals("animal_diet", lambda a: a.diet),
    "animal_habitat": _animal_habitat,
    "animal_legs": _animal_legs,
    "thing_purpose": _things("thing_purpose", lambda t: t.purpose),
    "thing_place": _things("thing_place", lambda t: t.place),
    "thing_material": _things("thing_material", lambda t: t.material),
}
