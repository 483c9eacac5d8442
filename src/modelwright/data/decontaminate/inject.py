"""How many evaluation items the index finds: items are planted in clean text, and looked for.

A decontamination that reports hits and no recall cannot tell clean data from a filter that is blind.
Re-wrapping alone takes the recall of some n-gram filters to nothing, so every run measures its own.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from modelwright.base.errors import UserError
from modelwright.base.intervals import wilson
from modelwright.base.schema import Json
from modelwright.data.decontaminate.disguise import DISGUISES, Disguise, plant
from modelwright.data.decontaminate.index import Hit, Index
from modelwright.data.decontaminate.items import EvalItem
from modelwright.data.decontaminate.settings import BARS

MAX_FALSE_SHARE = 1e-4


@dataclass(frozen=True, slots=True)
class Share:
    """A count out of a total, with Wilson's 95 % interval."""

    count: int
    total: int

    @property
    def value(self) -> float:
        return self.count / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """(low, high), which also holds where the count is none or all."""
        return wilson(self.count, self.total)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.4f} [{low:.4f}, {high:.4f}] ({self.count:,} of {self.total:,})"


@dataclass(frozen=True)
class Recall:
    """What was planted and found. `misses` counts by (disguise, why)."""

    found: dict[Disguise, Share]
    false_hits: Share
    """Clean documents in which something was found."""
    coverage: Counter[str]
    """Items of the index: usable, and the others by why they cannot be found."""
    misses: Counter[tuple[Disguise, str]] = field(default_factory=Counter)
    wrong: tuple[Hit, ...] = ()
    """Hits in clean documents, to look at: some texts that pass as clean hold items indeed."""

    def below_bar(self) -> list[str]:
        """The bars that were missed, in words."""
        short = [
            f"{disguise}: recall {self.found[disguise].value:.3f}, {BARS[disguise]} asked"
            for disguise in DISGUISES
            if disguise in BARS and self.found[disguise].value < BARS[disguise]
        ]
        if self.false_hits.value > MAX_FALSE_SHARE:
            short.append(f"false hits: {self.false_hits.value:.2g} of documents, {MAX_FALSE_SHARE:g} asked")
        return short

    def as_json(self) -> Json:
        """For manifests and reports."""
        shares = {**self.found, "false hits": self.false_hits}
        return {
            "recall": {
                name: {"share": share.value, "interval": share.interval, "of": share.total}
                for name, share in shares.items()
            },
            "items": dict(self.coverage),
            "misses": {f"{disguise}: {why}": count for (disguise, why), count in self.misses.items()},
        }

    def __str__(self) -> str:
        return "\n".join(
            [
                *(f"recall, {disguise}: {share}" for disguise, share in self.found.items()),
                f"false hits: {self.false_hits}",
                *(f"missed, {disguise}: {count} {why}" for (disguise, why), count in self.misses.items()),
            ]
        )


def inject(
    index: Index, items: Sequence[EvalItem], hosts: Iterable[str], seed: int, usable_only: bool = False
) -> Recall:
    """Plant each item once in each disguise, and look for it.

    `hosts` are texts that hold no items; those in which something is found count as false hits and carry
    nothing. `usable_only` leaves out the items that no text can give away (see `Index.unusable`).
    """
    hopeless = {(suite, name): why for suite, name, why in index.unusable()}
    if usable_only:
        items = [item for item in items if (item.suite, item.id) not in hopeless]
    clean, wrong = _clean(index, hosts)
    if not clean or not items:
        raise UserError("recall cannot be measured: it takes evaluation items, and host texts without any.")
    found: Counter[Disguise] = Counter()
    misses: Counter[tuple[Disguise, str]] = Counter()
    for disguise in DISGUISES:
        dice = random.Random(f"{seed}/{disguise}")
        for item in items:
            planted = plant(item, disguise, clean, dice)
            if any(hit.start < planted.end and hit.end > planted.start for hit in index.find(planted.text)):
                found[disguise] += 1
            else:
                misses[disguise, hopeless.get((item.suite, item.id)) or _why(index, item)] += 1
    shares: dict[Disguise, Share] = {each: Share(found[each], len(items)) for each in DISGUISES}
    false_hits = Share(len(wrong), len(wrong) + len(clean))
    return Recall(shares, false_hits, index.coverage(), misses, tuple(wrong))


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


def _why(index: Index, item: EvalItem) -> str:
    """Why a usable item may be missed."""
    num_words = len(item.question.split())
    if num_words <= index.config.short_words:
        return f"question of at most {index.config.short_words} words, which has to be found whole"
    if num_words < index.config.long_words:
        return f"question of fewer than {index.config.long_words} words"
    return "long question"
