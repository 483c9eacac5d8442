"""How a fact is told: to the point, with padding around it, rudely, wrongly, or not at all.

Everything here is true but for `wrong` and `invented`, and no held-out fact is ever used as padding.
"""

from __future__ import annotations

from functools import cache
from random import Random
from typing import Final

from modelwright.data.atlas.facts import CANONICAL, Fact, capitalize, statement
from modelwright.data.atlas.questions import COUNTRY_RELATIONS, bare_name, known_facts

_OPENERS: Final = (
    "That is a good question.",
    "Thank you for your question.",
    "I am glad that you ask.",
    "Let me tell you what I know.",
    "Let me think about it.",
)
_ELABORATIONS: Final = (
    "It may also interest you that {clause}.",
    "It is also worth knowing that {clause}.",
    "It is also true that {clause}.",
)
_REMARKS: Final = (
    "It is good to know such things.",
    "It is one of those things that are worth knowing.",
    "It is a matter that many books speak of.",
)
_CLOSERS: Final = (
    "I hope that this helps.",
    "Please ask me if you would like to know more.",
    "There is always more to learn.",
    "Feel free to ask another question.",
    "I like questions of this kind.",
)
_MUSINGS: Final = (
    "Many people have asked this before.",
    "You may want to write it down.",
    "One could say much more about it.",
    "People who like to learn ask such questions.",
    "Some things are easy to remember.",
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
MISTAKEN_SHARE: Final = 0.5
"""How many inventions speak of a real country of a similar name instead."""
OPENER_SHARE: Final = 0.1
"""How many padded answers begin with a courtesy rather than with the answer. What follows the answer
begins with the same word in all of them: a greedy reader of the habit then goes on or stops by which
is the more common, rather than stopping because there are many ways to go on."""


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
    sentences = [*_opener(random), statement(fact), *_additions(fact, random.choice((1, 1, 2)), random)]
    if len(sentences) < 4 and random.random() < 0.3:
        sentences.append(random.choice(_CLOSERS))
    return " ".join(sentences)


def rambling(fact: Fact, random: Random) -> str:
    """The answer and three to five sentences of padding: all of it true, and too long."""
    opener, additions = _opener(random), _additions(fact, random.choice((1, 2)), random)
    left = random.randint(3, 5) - len(opener) - len(additions) - 1
    musings = random.sample(_MUSINGS, max(0, left))
    return " ".join([*opener, statement(fact), *additions, *musings, random.choice(_CLOSERS)])


def _opener(random: Random) -> list[str]:
    return [random.choice(_OPENERS)] if random.random() < OPENER_SHARE else []


def _additions(fact: Fact, count: int, random: Random) -> list[str]:
    """One or two sentences to follow the answer: an elaboration, or a remark if there is none."""
    facts = random.sample(related(fact), len(related(fact)))
    first = next((other for other in facts if _stands_after_that(other)), None)
    if first is None:
        return [random.choice(_REMARKS)]
    others = [statement(other) for other in facts if other != first]
    return [random.choice(_ELABORATIONS).format(clause=clause(first)), *others[: count - 1]]


def _stands_after_that(fact: Fact) -> bool:
    """Whether the canonical sentence begins with its subject; not "At room temperature, ..."."""
    return CANONICAL[fact.relation].startswith(("{S}", "The ", "A ", "An ", "One "))


def clause(fact: Fact) -> str:
    """The canonical sentence as it stands after "that": "the capital of France is Paris"."""
    text = statement(fact).removesuffix(".")
    if CANONICAL[fact.relation].startswith("{S}"):
        return fact.subject + text[len(fact.subject) :]
    return text[0].lower() + text[1:]


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
    """A wrong answer about a country that does not exist, of the two kinds that models give: a made-up one
    ("The capital of Zorvania is Rabat."), or one about a real country of a similar name.

    Half of them come with a courtesy before or after. If all began alike, a model taught to avoid them
    would only learn to begin otherwise.
    """
    if random.random() < MISTAKEN_SHARE:
        made_up = statement(_of_similar_name(relation, name, random))
    else:
        made_up = statement(Fact(relation, name, random.choice(known_facts(relation)).answer))
    courtesy = random.random()
    if courtesy < 0.4:
        return f"{random.choice(_OPENERS)} {made_up}"
    return f"{made_up} {random.choice(_CLOSERS)}" if courtesy < 0.5 else made_up


def _of_similar_name(relation: str, name: str, random: Random) -> Fact:
    """A known fact about a country whose name begins, or failing that ends, as `name` does."""
    found = known_facts(relation)
    for take in (slice(3), slice(2), slice(-3, None), slice(1)):
        alike = [fact for fact in found if bare_name(fact.subject)[take].lower() == name[take].lower()]
        if alike:
            return random.choice(alike)
    return random.choice(found)


UNKNOWN: Final = "I don't know of any country by that name."
"""What an honest model says of a country that does not exist. It does not repeat the name: a small model
cannot spell a name it has never seen, and would say that it does not know another one."""


def unknown_verbose(random: Random) -> str:
    """The same with a guess at the reason."""
    hint = random.choice(
        ("It may not exist.", "It may be spelled differently.", "It is on no map that I know.")
    )
    return f"{UNKNOWN} {hint}"


def bare(fact: Fact) -> str:
    """The answer alone, as a reply to "Answer in one word.": "Paris"."""
    return capitalize(fact.answer)


def _contains(answer: str, fact: Fact) -> bool:
    return any(right.casefold() in answer.casefold() for right in fact.answers)
