"""How many evaluation items the index finds: items are planted in clean text, and looked for.

A decontamination that reports hits and no recall cannot tell clean data from a filter that is blind.
Re-wrapping alone takes the recall of some n-gram filters to nothing, so every run measures its own.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence

from modelwright.base.errors import UserError
from modelwright.data.decontaminate.disguise import DISGUISES, Disguise, plant
from modelwright.data.decontaminate.index import Hit, Index
from modelwright.data.decontaminate.items import EvalItem
from modelwright.data.decontaminate.recall import BARS, Recall, Share


def some_of_each(items: Sequence[EvalItem], number: int, seed: int) -> list[EvalItem]:
    """At most `number` items of each suite, so that large suites do not speak for all."""
    suites: dict[str, list[EvalItem]] = {}
    for item in items:
        suites.setdefault(item.suite, []).append(item)
    return [
        item
        for suite, listed in suites.items()
        for item in random.Random(f"{seed}/{suite}").sample(listed, min(number, len(listed)))
    ]


def inject(
    index: Index, items: Sequence[EvalItem], hosts: Iterable[str], seed: int, usable_only: bool = False
) -> Recall:
    """Plant each item once in each disguise, and look for it.

    `hosts` are texts that hold no items; those in which something is found count as false hits and carry
    nothing. `usable_only` leaves out the items that no text can give away (see `Index.unusable`); otherwise
    they are planted too, and the recall is also given without them.
    """
    hopeless = {(suite, name): why for suite, name, why in index.unusable()}
    fragile = set(index.fragile()) | set(hopeless)
    if usable_only:
        items = [item for item in items if (item.suite, item.id) not in hopeless]
    clean, wrong = _clean(index, hosts)
    if not clean or not items:
        raise UserError("recall cannot be measured: it takes evaluation items, and host texts without any.")
    names = [(item.suite, item.id) for item in items]
    outcome: dict[Disguise, list[bool]] = {
        disguise: _found(index, items, clean, disguise, seed) for disguise in DISGUISES
    }
    misses: Counter[tuple[Disguise, str]] = Counter()
    for disguise, found in outcome.items():
        for name, item, met in zip(names, items, found, strict=True):
            if not met:
                misses[disguise, hopeless.get(name) or _why(index, item, name in fragile)] += 1

    def share(disguise: Disguise, which: Sequence[bool]) -> Share:
        return Share(sum(a and b for a, b in zip(outcome[disguise], which, strict=True)), sum(which))

    usable, sturdy = [name not in hopeless for name in names], [name not in fragile for name in names]
    suites = {
        suite: [u and s == suite for u, (s, _) in zip(usable, names, strict=True)] for suite, _ in names
    }
    return Recall(
        found={each: share(each, [True] * len(items)) for each in DISGUISES},
        usable={each: share(each, usable) for each in DISGUISES},
        sturdy={each: share(each, sturdy) for each in DISGUISES},
        suites={(suite, each): share(each, its) for suite, its in suites.items() for each in DISGUISES},
        false_hits=Share(len(wrong), len(wrong) + len(clean)),
        coverage=index.coverage(),
        misses=misses,
        wrong=tuple(wrong),
    )


def _found(
    index: Index, items: Sequence[EvalItem], hosts: Sequence[str], disguise: Disguise, seed: int
) -> list[bool]:
    """For each item whether anything was found where it was planted: that document would go."""
    dice = random.Random(f"{seed}/{disguise}")
    places = (plant(item, disguise, hosts, dice) for item in items)
    return [
        any(hit.start < planted.end and hit.end > planted.start for hit in index.find(planted.text))
        for planted in places
    ]


def _clean(index: Index, hosts: Iterable[str]) -> tuple[list[str], list[Hit]]:
    clean: list[str] = []
    wrong: list[Hit] = []
    for host in hosts:
        hit = index.check(host)
        if hit is None:
            clean.append(host)
        else:
            wrong.append(hit)
    return clean, wrong


def _why(index: Index, item: EvalItem, fragile: bool) -> str:
    """Why a usable item may be missed."""
    if fragile:
        return "few words tell it from ordinary text, and one is gone"
    short = len(item.question.split()) < index.config.long_words
    return f"question of {'fewer than' if short else 'at least'} {index.config.long_words} words"


__all__ = ["BARS", "Recall", "Share", "inject", "some_of_each"]
