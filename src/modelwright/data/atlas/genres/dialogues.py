"""Two people who ask each other things and know the answers."""

from __future__ import annotations

import random
from collections.abc import Iterator

from modelwright.data.atlas.facts import Fact, capitalize, facts
from modelwright.data.atlas.genres.fact_lists import one_round
from modelwright.data.atlas.genres.people import occasion, two_people
from modelwright.data.atlas.phrasing import Deck, say, short_answer
from modelwright.data.atlas.questions import ask_somehow
from modelwright.data.atlas.world import World

_THANKS = ("Thank you.", "Thanks!", "Good to know.", "I see.", "Of course!", "That is what I thought.")
_GREETINGS = (
    ("Hello, {b}!", "Hello, {a}!"),
    ("Good morning, {b}.", "Good morning, {a}."),
    ("Hi {b}.", "Hi {a}."),
)
_FOLLOW_UPS = ("And of {s}?", "And {s}?", "What about {s}?")


def dialogues(world: World, rng: random.Random) -> Iterator[str]:
    """In turn: as a script with names in front, as told prose, and a chain of capitals."""
    deck = Deck(one_round(world), rng)
    capitals = Deck(facts(world, "capital"), rng)
    while True:
        yield _script(deck.hand(rng.randint(3, 6)), rng)
        yield _told(deck.hand(rng.randint(3, 5)), world, rng)
        yield _chain(capitals.hand(rng.randint(4, 7)), rng)


def _script(asked: list[Fact], rng: random.Random) -> str:
    a, b = rng.sample(two_people(rng), 2)
    greeting, reply = rng.choice(_GREETINGS)
    lines = [f"{a}: {greeting.format(b=b)}", f"{b}: {reply.format(a=a)}"] if rng.random() < 0.5 else []
    for fact in asked:
        answer = f"{short_answer(fact)}." if rng.random() < 0.3 else say(fact, rng)
        lines += [f"{a}: {ask_somehow(fact, rng)}", f"{b}: {answer}"]
    return "\n".join([*lines, f"{a}: {rng.choice(_THANKS)}"])


def _told(asked: list[Fact], world: World, rng: random.Random) -> str:
    a, b = rng.sample(two_people(rng), 2)
    place = rng.choice(("in the kitchen", "on the train", "at school", "in the garden", "in the library"))
    sentences = [f"{occasion(world, rng)}, {a} and {b} were {place}."]
    for fact in asked:
        told = say(fact, rng).removesuffix(".")
        answered = rng.choice((f"said {b}", f"answered {b}", f"{b} said", f"{b} answered"))
        sentences.append(f'"{ask_somehow(fact, rng)}" asked {a}. "{told}," {answered}.')
    thanks = rng.choice(_THANKS)
    return " ".join([*sentences, f'"{thanks[:-1]}{"!" if thanks.endswith("!") else ","}" said {a}.'])


def _chain(asked: list[Fact], rng: random.Random) -> str:
    a, b = rng.sample(two_people(rng), 2)
    first, *rest = asked
    lines = [f"{a}: {ask_somehow(first, rng)}", f"{b}: {say(first, rng)}"]
    for fact in rest:
        question = rng.choice(_FOLLOW_UPS).format(s=fact.subject)
        answer = f"{capitalize(fact.answer)}." if rng.random() < 0.5 else say(fact, rng)
        lines += [f"{a}: {question}", f"{b}: {answer}"]
    return "\n".join([*lines, f"{a}: {rng.choice(_THANKS)}"])
