"""Countries that do not exist: to teach a model to say "I don't know", and to catch it inventing.

Names for training and validation are put together from syllables and parts of real names, and each
belongs to one of the two by a hash of the name itself (`splits.split_of`). Names for tests were made up
by hand, by someone who had not seen any of that (`tables/imaginary_countries.txt`), so that a test asks
for honesty, not for recognising a generator.
"""

from __future__ import annotations

import random
import re
from functools import cache, lru_cache
from importlib.resources import files

from modelwright.base.seeding import derive
from modelwright.data.atlas.splits import Part, split_of
from modelwright.data.atlas.world import load_world

_ONSETS = "b br d dr f g gl gr h j k kr l m n p pr qu r s sk t tr v vr w y z"
_VOWELS = "a e i o u ai ei ou"
_CODAS = ("", "", "", "l", "m", "n", "r", "s", "th")
_ENDINGS = (
    "a ab ad aine al an and andia ando anto ara aria as ast avia ay e ee el elle en enia ent eria esh ess "
    "essa essia et eth ia ic ika il imor in ique is istan ith land mark mere o oa olo om ombre on oria os "
    "osh ough ova ovar ovia oz u uay ul ulu una ura uria urra us ux wa y ya ython"
)
_COMPOUNDS = (
    *("New {}", "North {}", "South {}", "East {}", "Upper {}", "Lower {}", "Old {}", "Great {}", "Saint {}"),
    *("Republic of {}", "Kingdom of {}", "Principality of {}", "Sultanate of {}", "Free State of {}"),
    *("United States of {}", "Union of {}", "Isle of {}", "{} Islands", "{} Republic", "{} Federation"),
    *("{} Coast", "{} and {}", "{}-{}"),
)
COMPOUND_SHARE = 0.25
SPLICED_SHARE = 0.15


def split_of_invented(name: str) -> Part:
    """The one split that an invented name belongs to: a third of them to validation."""
    split = split_of("invented country", name, test=0.0, validation=1 / 3)
    assert split != "test"
    return split


@cache
def imaginary_countries() -> tuple[str, ...]:
    """The hand-made names that no training sees: tests alone ask for them."""
    table = files("modelwright.data.atlas").joinpath("tables", "imaginary_countries.txt")
    return tuple(table.read_text(encoding="utf-8").split("\n")[:-1])


def invented_countries(seed: int, count: int, split: Part = "train") -> tuple[str, ...]:
    """`count` different pronounceable names of one split.

    None is a word of a real country's or capital's name in any of our languages, nor becomes one by
    changing, adding or leaving out a letter.
    """
    rng = random.Random(derive(seed, "invented", split))
    names: dict[str, None] = {}
    while len(names) < count:
        name = _invent(rng)
        if split_of_invented(name) == split and name not in imaginary_countries():
            names[name] = None
    return tuple(names)


def _invent(rng: random.Random) -> str:
    """One word, or a few as the names of states have: "Tromaria", "Upper Kelonde", "Besk and Ruvia"."""
    if rng.random() >= COMPOUND_SHARE:
        return _word(rng)
    pattern = rng.choice(_COMPOUNDS)
    return pattern.format(*(_word(rng) for _ in range(pattern.count("{}"))))


def _word(rng: random.Random) -> str:
    while True:
        word = _spliced(rng) if rng.random() < SPLICED_SHARE else _from_syllables(rng)
        if 4 <= len(word) <= 14 and not _resembles_real(word):
            return word


def _from_syllables(rng: random.Random) -> str:
    onsets, vowels, endings = _ONSETS.split(), _VOWELS.split(), _ENDINGS.split()
    syllables = (
        rng.choice(onsets) + rng.choice(vowels) + rng.choice(_CODAS) for _ in range(rng.choice((0, 1, 1, 2)))
    )
    return ("".join(syllables) + rng.choice(onsets) + rng.choice(endings)).capitalize()


def _spliced(rng: random.Random) -> str:
    """The beginning of one real name and the end of another: what sounds most like a country."""
    first, second = rng.sample(_plain_names(), 2)
    return (first[: rng.randint(2, len(first) - 2)] + second[rng.randint(2, len(second) - 2) :]).capitalize()


@cache
def _plain_names() -> tuple[str, ...]:
    """Names of countries and capitals that are one plain word."""
    world = load_world()
    names = [name for country in world.countries for name in (country.name, country.capital)]
    return tuple(name for name in names if name.isascii() and name.isalpha() and len(name) >= 5)


def _resembles_real(word: str) -> bool:
    return not _one_letter_less(word.lower()).isdisjoint(_real_forms())


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
