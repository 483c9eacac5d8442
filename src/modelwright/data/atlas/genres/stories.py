"""Little stories in which a pronoun must be understood.

Each scene has two endings that differ in a word or two, and with it changes what "it" is: the animal
did not cross the street because it was too tired, or because it was too wide (a Winograd schema,
after Levesque et al. 2012). The story then says what "it" was.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product

from modelwright.data.atlas.genres.people import occasion, two_people
from modelwright.data.atlas.phrasing import Deck
from modelwright.data.atlas.splits import split_of
from modelwright.data.atlas.world import World


@dataclass(frozen=True, slots=True)
class Scene:
    """`what` tells what happened to a `first` and a `second`; "it" is the one that the reason fits."""

    what: str
    first: tuple[str, ...]
    second: tuple[str, ...]
    first_reasons: tuple[tuple[str, str], ...]
    """(reason, what came next)"""
    second_reasons: tuple[tuple[str, str], ...]


_WALKERS = ("animal", "animal", "animal", "dog", "cat", "horse", "cow", "goat", "fox", "deer", "donkey")
_TIRED = (
    ("was too tired", "After a rest it went on."),
    ("was too frightened", "Its heart was beating fast."),
    ("was too weak", "It had been ill all week."),
)

SCENES = (
    Scene(
        "The {x} didn't cross the {y} because it",
        _WALKERS,
        ("street", "street", "road"),
        _TIRED,
        (("was too wide", "There were four lanes of it."), ("was too busy", "Cars went by all day.")),
    ),
    Scene(
        "The {x} did not swim across the {y} because it",
        ("dog", "horse", "bear", "elephant", "deer"),
        ("river", "lake", "canal"),
        _TIRED,
        (("was too wide", "One could hardly see the other side."), ("was too cold", "There was ice on it.")),
    ),
    Scene(
        "The {x} does not fit into the {y} because it",
        ("trophy", "guitar", "teapot", "lamp", "umbrella", "drum", "clock", "kettle"),
        ("suitcase", "backpack", "basket", "drawer", "bag"),
        (
            ("is too large", "A little one would be easy to pack."),
            ("is too long", "It sticks out at the top."),
        ),
        (("is too small", "We need a bigger one."), ("is already full", "Something has to come out first.")),
    ),
    Scene(
        "The {x} could not pull the {y} because it",
        ("donkey", "horse", "dog", "pony", "camel"),
        ("cart", "sledge", "wagon"),
        (("was too weak", "It had been ill all week."), ("was too tired", "It had worked since dawn.")),
        (
            ("was too heavy", "It was loaded with stones."),
            ("was stuck in the mud", "It did not move an inch."),
        ),
    ),
    Scene(
        "The {x} did not catch the {y} because it",
        ("cat", "fox", "owl", "snake"),
        ("mouse", "rat", "rabbit", "frog"),
        (("was too slow", "It went to bed hungry."), ("was half asleep", "It had hunted all night.")),
        (
            ("ran away too fast", "It was soon out of sight."),
            ("hid in a hole", "Nobody saw it again that day."),
        ),
    ),
    Scene(
        "The {x} did not sit down on the {y} because it",
        ("crow", "pigeon", "parrot", "owl", "sparrow"),
        ("branch", "fence", "roof", "wall", "chimney"),
        (("was too nervous", "It flew round and round."), ("was still hungry", "It went to look for food.")),
        (
            ("was covered with ice", "Winter had come early."),
            ("was too hot", "The sun had shone on it all day."),
        ),
    ),
    Scene(
        "The {x} did not eat the {y} because it",
        ("mouse", "dog", "pig", "goat", "rabbit", "horse"),
        ("bread", "apple", "carrot", "cheese", "pear"),
        (("was not hungry", "It had just had breakfast."), ("was ill", "The doctor came in the evening.")),
        (("was mouldy", "It smelled bad."), ("was too hard", "It had lain there for a month.")),
    ),
    Scene(
        "The {x} did not break the {y} because it",
        ("hammer", "ball", "stick", "arrow"),
        ("window", "rock", "door", "wall"),
        (("was too light", "A heavier one would have done it."), ("was too soft", "It only bounced off.")),
        (
            ("was too strong", "There was not even a crack."),
            ("was too thick", "Nothing could get through it."),
        ),
    ),
    Scene(
        "The {x} did not cover the {y} because it",
        ("blanket", "towel", "cloth", "sheet", "rug"),
        ("bed", "table", "car", "sofa", "piano"),
        (
            ("was too short", "A longer one was needed."),
            ("had shrunk in the wash", "The water had been hot."),
        ),
        (
            ("was too long", "It was the longest in town."),
            ("was too big", "Eight people could not reach round it."),
        ),
    ),
    Scene(
        "The {x} did not hold the {y} because it",
        ("rope", "shelf", "hook", "chain", "beam"),
        ("boat", "piano", "bicycle", "wardrobe"),
        (("was too weak", "It broke with a loud noise."), ("was badly made", "Nobody had tested it.")),
        (("was too heavy", "Two men could not lift it."), ("was too large", "There was hardly room for it.")),
    ),
)

_ENDINGS = (
    'What {reason}? The {answer}. In this story, "it" is the {answer}, not the {other}.',
    'Here "it" means the {answer}: the {answer} {reason}.',
    "What {reason}? The {answer} {reason}.",
    'Question: What does "it" mean? Answer: "It" means the {answer}.',
    "It was the {answer} that {reason}, not the {other}.",
)


def stories(world: World, rng: random.Random) -> Iterator[str]:
    """A scene told to its end; often its twin follows, in which "it" is the other one."""
    scenes = Deck(SCENES, rng)
    while True:
        scene = scenes.draw()
        x, y = rng.choice(pairs_to_tell_of(scene))
        woman, man = two_people(rng)
        opening = rng.choice(
            (
                f"{occasion(world, rng)}, {woman} and {man} saw something.",
                f"{occasion(world, rng)}, {woman} told {man} a story.",
                f"{woman} wrote to {man} what she had seen.",
                f"{man} looked out of the window. He called {woman} to come and see.",
            )
        )
        sides = rng.sample((True, False), rng.choice((1, 2, 2)))
        parts = [tell(scene, x, y, first, rng) for first in sides]
        turn = rng.choice(("Now change one thing.", "On another day it was different.", "Then again:"))
        yield f"{opening} " + f"\n\n{turn} ".join(parts)


@cache
def pairs_to_tell_of(scene: Scene) -> tuple[tuple[str, str], ...]:
    """The scene's pairs of the split "train"; of the others nothing is told, so that they can be asked."""
    pairs = product(scene.first, scene.second)
    return tuple((x, y) for x, y in pairs if split_of("story", scene.what, x, y) == "train")


def tell(scene: Scene, x: str, y: str, first: bool, rng: random.Random) -> str:
    """The scene with the reason that fits `x` (first) or `y`, and what "it" was."""
    reason, sequel = rng.choice(scene.first_reasons if first else scene.second_reasons)
    answer, other = (x, y) if first else (y, x)
    sentence = scene.what.format(x=x, y=y)
    ending = rng.choice(_ENDINGS).format(reason=reason, answer=answer, other=other)
    return f"{sentence} {reason}. {sequel} {ending}"
