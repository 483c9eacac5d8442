"""The people of stories and dialogues, and the days on which they meet."""

from __future__ import annotations

import random

from modelwright.data.atlas.world import World

WOMEN = ("Anna", "Clara", "Emma", "Fatima", "Grace", "Ines", "Lena", "Maria", "Nora", "Ruth", "Sofia", "Yuki")
MEN = ("Adam", "Ben", "David", "Hugo", "Ivan", "Jonas", "Karim", "Leo", "Max", "Noah", "Omar", "Tom")


def two_people(rng: random.Random) -> tuple[str, str]:
    """A woman and a man, in this order, so that "she" and "he" are never in doubt."""
    return rng.choice(WOMEN), rng.choice(MEN)


def occasion(world: World, rng: random.Random) -> str:
    """ "On a rainy Tuesday in March"."""
    weather = rng.choice(("rainy", "sunny", "windy", "cold", "warm", "cloudy", "quiet", "foggy"))
    return f"On a {weather} {rng.choice(world.weekdays).name} in {rng.choice(world.months).name}"
