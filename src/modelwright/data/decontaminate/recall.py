"""What an injection test found: shares with intervals, by disguise and suite, and their bars."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from modelwright.base.intervals import wilson
from modelwright.base.schema import Json
from modelwright.data.decontaminate.disguise import DISGUISES, Disguise
from modelwright.data.decontaminate.index import Hit
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

    @property
    def short(self) -> str:
        """Two decimals, for tables."""
        low, high = self.interval
        return f"{self.value:.2f} [{low:.2f}, {high:.2f}]"

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.4f} [{low:.4f}, {high:.4f}] ({self.count:,} of {self.total:,})"


@dataclass(frozen=True)
class Recall:
    """What was planted and found. `misses` counts by (disguise, why)."""

    found: dict[Disguise, Share]
    """Of all items that were planted,"""
    usable: dict[Disguise, Share]
    """of those among them that can be found at all (not `Index.unusable`),"""
    sturdy: dict[Disguise, Share]
    """and of those that could be found whichever word was edited (not `Index.fragile`)."""
    suites: dict[tuple[str, Disguise], Share]
    """Of the usable items of each suite."""
    false_hits: Share
    """Clean documents in which something was found."""
    coverage: Counter[str]
    """Items of the index: usable, and the others by why they cannot be found."""
    misses: Counter[tuple[Disguise, str]] = field(default_factory=Counter)
    wrong: tuple[Hit, ...] = ()
    """Hits in clean documents, to look at: some texts that pass as clean hold items indeed."""

    def below_bar(self, shares: Mapping[Disguise, Share] | None = None) -> list[str]:
        """The bars that were missed by `shares`, `found` when left out; in words."""
        shares = self.found if shares is None else shares
        short = [
            f"{disguise}: recall {shares[disguise].value:.3f}, {BARS[disguise]} asked"
            for disguise in DISGUISES
            if disguise in BARS and shares[disguise].value < BARS[disguise]
        ]
        if self.false_hits.value > MAX_FALSE_SHARE:
            short.append(f"false hits: {self.false_hits.value:.2g} of documents, {MAX_FALSE_SHARE:g} asked")
        return short

    def as_json(self) -> Json:
        """For manifests and reports."""
        return {
            "recall": _as_json(self.found) | {"false hits": _share(self.false_hits)},
            "recall of usable items": _as_json(self.usable),
            "recall of sturdy items": _as_json(self.sturdy),
            "items": dict(self.coverage),
            "misses": {f"{disguise}: {why}": count for (disguise, why), count in self.misses.items()},
        }

    def __str__(self) -> str:
        return "\n".join(
            [
                *(f"recall, {disguise}: {share}" for disguise, share in self.found.items()),
                *(f"of usable items, {disguise}: {share}" for disguise, share in self.usable.items()),
                *(f"of sturdy items, {disguise}: {share}" for disguise, share in self.sturdy.items()),
                f"false hits: {self.false_hits}",
                *(f"missed, {disguise}: {count} {why}" for (disguise, why), count in self.misses.items()),
            ]
        )

    def table(self) -> str:
        """The usable items by suite, in Markdown."""
        kinds: list[Disguise] = [disguise for disguise in DISGUISES if disguise in BARS]
        rows: list[list[str]] = [["suite", "planted", *kinds], ["---"] * (2 + len(kinds))]
        for suite in sorted({suite for suite, _ in self.suites}):
            shares = [self.suites[suite, kind] for kind in kinds]
            rows.append([suite, str(shares[0].total), *(share.short for share in shares)])
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _as_json(shares: Mapping[Disguise, Share]) -> dict[str, Json]:
    return {disguise: _share(share) for disguise, share in shares.items()}


def _share(share: Share) -> Json:
    return {"share": share.value, "interval": share.interval, "of": share.total}
