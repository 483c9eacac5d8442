"""Countries that do not exist: to teach a model to say "I don't know", and to catch it inventing.

Every name belongs to exactly one pool, chosen by a hash of the name itself, so what is trained on
and what is evaluated on can never meet, whatever the seeds.
"""

from __future__ import annotations

import random
import re
from functools import lru_cache
from hashlib import sha256
from typing import Literal

from modelwright.base.seeding import derive
from modelwright.data.atlas.world import load_world

Pool = Literal["pretrain", "train", "validation"]
"""pretrain: documents; train: conversations and preferences; validation: evaluation only."""

POOLS: tuple[Pool, ...] = ("pretrain", "train", "validation")

_ONSETS = [
    "b",
    "br",
    "d",
    "dr",
    "f",
    "g",
    "gl",
    "gr",
    "h",
    "j",
    "k",
    "kr",
    "l",
    "m",
    "n",
    "p",
    "pr",
    "qu",
    "r",
    "s",
    "sk",
    "t",
    "tr",
    "v",
    "vr",
    "w",
    "y",
    "z",
]
_VOWELS = ["a", "e", "i", "o", "u", "ai", "ei", "ou"]
_CODAS = ["", "", "", "l", "m", "n", "r", "s", "th"]
_ENDINGS = [
    "aria",
    "enia",
    "ovia",
    "istan",
    "oria",
    "andia",
    "una",
    "essa",
    "ovar",
    "imor",
    "elle",
    "anto",
    "urra",
    "ython",
    "essia",
    "ombre",
]


def pool_of(name: str) -> Pool:
    """The one pool that a name belongs to."""
    return POOLS[sha256(name.encode()).digest()[0] % len(POOLS)]


def invented_countries(seed: int, count: int, pool: Pool = "pretrain") -> tuple[str, ...]:
    """`count` different pronounceable names from one pool, none within a letter of a real place's."""
    rng = random.Random(derive(seed, "invented", pool))
    names: dict[str, None] = {}
    while len(names) < count:
        name = _invent(rng)
        if pool_of(name) == pool and not _resembles_real(name):
            names[name] = None
    return tuple(names)


def _invent(rng: random.Random) -> str:
    syllables = (
        rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(rng.choice((1, 1, 2)))
    )
    return ("".join(syllables) + rng.choice(_ONSETS) + rng.choice(_ENDINGS)).capitalize()


def _resembles_real(name: str) -> bool:
    return not _one_letter_less(name.lower()).isdisjoint(_real_forms())


@lru_cache(maxsize=1)
def _real_forms() -> frozenset[str]:
    """Every word of every real name in any language, and each of them short of one letter."""
    names: set[str] = set()
    for country in load_world().countries:
        names |= {country.name, country.capital, *country.other_names, *country.other_capitals}
        names |= {*country.names.values(), *country.capitals.values()}
    words = {word for name in names for word in re.split(r"[\s'-]+", name.lower()) if len(word) > 3}
    return frozenset(form for word in words for form in _one_letter_less(word))


def _one_letter_less(word: str) -> set[str]:
    return {word} | {word[:i] + word[i + 1 :] for i in range(len(word))}
