"""How a fact is told: to the point, with padding around it, rudely, wrongly, or not at all.

Everything here is true but for `wrong`, and no held-out fact is ever used as padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from random import Random
from typing import Final

from modelwright.data.atlas.facts import Fact, capitalize, statement
from modelwright.data.atlas.questions import COUNTRY_RELATIONS, known_facts

_OPENERS: Final = (
    "That is a good question.",
    "Thank you for your question.",
    "I am glad that you ask.",
    "Let me tell you what I know.",
    "Let me think about it.",
)
_CLOSERS: Final = (
    "I hope that this helps.",
    "Please ask me if you would like to know more.",
    "There is always more to learn.",
    "It is good to know such things.",
    "Feel free to ask another question.",
    "I like questions of this kind.",
)
_MUSINGS: Final = (
    "Many people have asked this before.",
    "It is one of those things that are worth knowing.",
    "You may want to write it down.",
    "One could say much more about it.",
    "People who like to learn ask such questions.",
    "It is a matter that many books speak of.",
)
_RUDE: Final = (
    "Even a child knows that.",
    "Stop wasting my time.",
    "What a stupid question.",
    "You should have paid attention at school.",
    "Look it up yourself next time.",
    "Do not bother me again.",
)
_COURTEOUS: Final = ("You are welcome.", "I am happy to help.", "I hope that this helps.")
OPENER_SHARE: Final = 0.3
"""How many verbose answers begin with a courtesy rather than with the answer."""


@cache
def _about() -> dict[str, tuple[Fact, ...]]:
    """Topic -> the known facts about it; facts told from the other end are left out."""
    topics: dict[str, tuple[Fact, ...]] = {}
    for fact in known_facts():
        if "_of" not in fact.relation:
            topics[_topic(fact)] = (*topics.get(_topic(fact), ()), fact)
    return topics


def _topic(fact: Fact) -> str:
    """What a fact is about: "country France", "element gold". Mercury is two topics."""
    turned = "_of" in fact.relation
    family = fact.relation.partition("_")[0]
    is_country = fact.relation in COUNTRY_RELATIONS or fact.relation == "capital_of"
    return f"{'country' if is_country else family} {fact.answer if turned else fact.subject}"


def related(fact: Fact) -> tuple[Fact, ...]:
    """Other known facts about the same country, element, animal, ..."""
    return tuple(
        other
        for other in _about().get(_topic(fact), ())
        if other != fact and {other.subject, other.answer} != {fact.subject, fact.answer}
    )


def verbose(fact: Fact, random: Random) -> str:
    """The answer within two to four sentences; the rest is true and was not asked for."""
    extra = random.sample(related(fact), min(len(related(fact)), random.choice((1, 2))))
    sentences = [statement(fact), *map(statement, extra)]
    if random.random() < OPENER_SHARE:
        sentences.insert(0, random.choice(_OPENERS))
    if len(sentences) == 1 or random.random() < 0.4:
        sentences.append(random.choice(_CLOSERS))
    return " ".join(sentences)


def rambling(answer: str, random: Random, facts: Sequence[Fact] = ()) -> str:
    """`answer` and three to five sentences of padding, `facts` among them: true, and too long."""
    extra = [statement(fact) for fact in random.sample(facts, min(len(facts), 2))]
    extra += random.sample(_MUSINGS, random.randint(max(0, 2 - len(extra)), 3 - len(extra) % 2))
    opening = [random.choice(_OPENERS)] if random.random() < OPENER_SHARE else []
    closing = [random.choice(_CLOSERS)] if len(extra) + len(opening) < 5 else []
    return " ".join([*opening, answer, *extra, *closing])


def rude(fact: Fact, random: Random) -> str:
    """The right answer in a tone that nobody wants."""
    remark = random.choice(_RUDE)
    first, second = random.choice(((statement(fact), remark), (remark, statement(fact))))
    return f"{first} {second}"


def polite(fact: Fact, random: Random) -> str:
    """The right answer, half of the time with a short courtesy after it."""
    return " ".join([statement(fact), *random.choice(((), (random.choice(_COURTEOUS),)))])


def wrong(fact: Fact, random: Random) -> str:
    """The canonical sentence with an answer that is false: another known fact's, of this relation."""
    others = [other.answer for other in known_facts(fact.relation) if not _contains(other.answer, fact)]
    return statement(Fact(fact.relation, fact.subject, random.choice(others)))


def invented(relation: str, name: str, random: Random) -> str:
    """A made-up answer about a country that does not exist: "The capital of Zorvania is Rabat."."""
    return statement(Fact(relation, name, random.choice(known_facts(relation)).answer))


def unknown(name: str) -> str:
    """What an honest model says of a country that does not exist."""
    return f"I don't know of a country called {name}."


def unknown_verbose(name: str, random: Random) -> str:
    """The same with a sentence or two around it."""
    hint = random.choice(("Perhaps it is spelled differently.", "It may not exist.", "Is the name right?"))
    return f"{unknown(name)} {hint}"


def bare(fact: Fact) -> str:
    """The answer alone, as a reply to "Answer in one word.": "Paris"."""
    return capitalize(fact.answer)


def _contains(answer: str, fact: Fact) -> bool:
    return any(right.casefold() in answer.casefold() for right in fact.answers)
