"""Dialogues about countries that do not exist: nobody knows, and nobody makes something up.

Real countries are asked about in the same breath, so that "I don't know" is tied to the name and not
to the question. The names are of the split "train" (see invented.py).
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from modelwright.data.atlas.facts import facts
from modelwright.data.atlas.genres.people import two_people
from modelwright.data.atlas.invented import invented_countries
from modelwright.data.atlas.phrasing import Deck, say
from modelwright.data.atlas.questions import ask_about, ask_somehow, phrasings
from modelwright.data.atlas.world import World

_RELATIONS = ("capital", "capital", "capital", "continent", "currency", "language", "neighbour")
_DENIALS = (
    "I don't know. I have never heard of a country called {name}.",
    "I don't know. As far as I know, there is no country called {name}.",
    "I don't know any country called {name}.",
    "Nobody knows, because there is no country called {name}.",
    "I don't know. I do not think that {name} exists.",
    "I don't know. {name} is not on any map that I have seen.",
)
_SEARCHES = (
    "{a} looked for {name} on the globe, but there was no such country. {b} did not know it either.",
    "{a} asked {b} about {name}. {b} looked it up in the atlas, but {name} was not there.",
    "In a book {a} read about {name}. It is a made-up country, so nobody can say what its capital is.",
)


def unknown(world: World, rng: random.Random) -> Iterator[str]:
    """Two or three made-up countries among as many real ones."""
    names = Deck(invented_countries(rng.getrandbits(32), 1000), rng)
    known = Deck([fact for relation in _RELATIONS for fact in facts(world, relation)], rng)
    while True:
        a, b = rng.sample(two_people(rng), 2)
        turns = [_unknown_turn(name, rng) for name in names.hand(rng.randint(1, 3))]
        turns += [(ask_somehow(fact, rng), say(fact, rng)) for fact in known.hand(rng.randint(1, 3))]
        rng.shuffle(turns)
        text = "\n".join(f"{a}: {question}\n{b}: {answer}" for question, answer in turns)
        if rng.random() < 0.3:
            text += "\n\n" + rng.choice(_SEARCHES).format(a=a, b=b, name=names.draw())
        yield text


def _unknown_turn(name: str, rng: random.Random) -> tuple[str, str]:
    relation = rng.choice(_RELATIONS)
    question = ask_about(rng.choice(phrasings(relation, "train")), name)
    return question, rng.choice(_DENIALS).format(name=name)
