"""Invented countries do not exist, and no name is both trained on and evaluated on."""

from __future__ import annotations

import re
from typing import get_args

from modelwright.data.atlas.invented import imaginary_countries, invented_countries, split_of_invented
from modelwright.data.atlas.splits import Part
from modelwright.data.atlas.world import load_world

SPLITS: tuple[Part, ...] = get_args(Part)


def test_the_same_seed_gives_the_same_names() -> None:
    assert invented_countries(3, 50) == invented_countries(3, 50)
    assert invented_countries(3, 20) == invented_countries(3, 50)[:20]
    assert invented_countries(3, 50) != invented_countries(4, 50)


def test_splits_never_meet_whatever_the_seed() -> None:
    names = {s: {n for seed in range(5) for n in invented_countries(seed, 300, s)} for s in SPLITS}
    for split in SPLITS:
        assert {split_of_invented(name) for name in names[split]} == {split}
        assert all(names[split].isdisjoint(names[other]) for other in SPLITS if other != split)
        assert names[split].isdisjoint(imaginary_countries())
    assert len(imaginary_countries()) == len(set(imaginary_countries())) == 150


def test_no_name_is_real() -> None:
    real: set[str] = set()
    for c in load_world().countries:
        real |= {
            c.name,
            c.capital,
            *c.other_names,
            *c.other_capitals,
            *c.names.values(),
            *c.capitals.values(),
        }
    lowered = {name.lower() for name in real}
    for name in imaginary_countries():
        assert name.lower() not in lowered
    for name in invented_countries(0, 2000):
        assert name.lower() not in lowered
        assert re.fullmatch(r"[A-Z][A-Za-z -]{3,40}", name), name
