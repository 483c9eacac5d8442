"""Countries that do not exist: to teach a model to say "I don't know", and to catch it inventing.

Every name belongs to exactly one split, by a hash of the name itself (`splits.split_of`), so what is
trained on (documents, conversations, preferences: "train") and what is evaluated on can never meet,
whatever the seeds and counts.
"""

from __future__ import annotations

import random
import re
from functools import lru_cache

from modelwright.base.seeding import derive
from modelwright.data.atlas.splits import Split, split_of
from modelwright.data.atlas.world import load_world

_ONSETS = "b br d dr f g gl gr h j k kr l m n p pr qu r s sk t tr v vr w y z"
_VOWELS = "a e i o u ai ei ou"
_CODAS = ("", "", "", "l", "m", "n", "r", "s", "th")
_ENDINGS = "aria enia ovia istan oria andia una essa ovar imor elle anto urra ython essia ombre"


def split_of_invented(name: str) -> Split:
    """The one split that an invented name belongs to: about a third of all names each."""
    return split_of("invented country", name, test=1 / 3, validation=1 / 3)


def invented_countries(seed: int, count: int, split: Split = "train") -> tuple[str, ...]:
    """`count` different pronounceable names of one split.

    None is a word of a real country's or capital's name in any of our languages, nor becomes one by
    changing, adding or leaving out a letter.
    """
    rng = random.Random(derive(seed, "invented", split))
    names: dict[str, None] = {}
    while len(names) < count:
        name = _invent(rng)
        if split_of_invented(name) == split and not _resembles_real(name):
            names[name] = None
    return tuple(names)


def _invent(rng: random.Random) -> str:
    onsets, vowels, endings = _ONSETS.split(), _VOWELS.split(), _ENDINGS.split()
    syllables = (
        rng.choice(onsets) + rng.choice(vowels) + rng.choice(_CODAS) for _ in range(rng.choice((1, 1, 2)))
    )
    return ("".join(syllables) + rng.choice(onsets) + rng.choice(endings)).capitalize()


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
