"""What a study of averages found: every kind of run with its interval over seeds, and paired differences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from modelwright.base.metrics import counted
from modelwright.evaluation.statistics import Difference, Interval, paired_difference, t_interval

LAST = "last"


@dataclass(frozen=True, slots=True)
class Measured:
    """One average of one run."""

    schedule: str
    average: str
    """"last" for the weights as training left them."""
    tokens: int
    seed: int
    bits_per_byte: float


@dataclass(frozen=True, slots=True)
class Arm:
    """A schedule with an average, at one length of run, over all seeds."""

    schedule: str
    average: str
    tokens: int
    value: Interval
    """Bits per byte, mean over seeds."""
    gained: Difference | None
    """Against the last weights of the same runs: what averaging adds. Below 0 is better."""
    against: Difference | None
    """Against the last weights of the reference schedule."""


@dataclass(frozen=True)
class Findings:
    """All that was measured, and what follows from it."""

    rows: tuple[Measured, ...]
    reference: str
    confidence: float

    @property
    def horizons(self) -> list[int]:
        """Tokens in a run, the shortest first."""
        return sorted({row.tokens for row in self.rows})

    @property
    def seeds(self) -> int:
        """Runs of each kind."""
        return len({row.seed for row in self.rows})

    @cached_property
    def arms(self) -> list[Arm]:
        """Every kind of run, in the order in which they were measured, by length."""
        values: dict[tuple[int, str, str], dict[int, float]] = {}
        for row in self.rows:
            values.setdefault((row.tokens, row.schedule, row.average), {})[row.seed] = row.bits_per_byte
        return [
            Arm(
                schedule,
                average,
                tokens,
                t_interval(list(found.values()), self.confidence),
                self._difference(values[tokens, schedule, LAST], found) if average != LAST else None,
                self._difference(values[tokens, self.reference, LAST], found)
                if (schedule, average) != (self.reference, LAST)
                else None,
            )
            for (tokens, schedule, average), found in sorted(values.items(), key=lambda item: item[0][0])
        ]

    def _difference(self, before: dict[int, float], after: dict[int, float]) -> Difference:
        seeds = sorted(before)
        return paired_difference([before[s] for s in seeds], [after[s] for s in seeds], self.confidence)

    def best(self, schedule: str, tokens: int) -> Arm:
        """The average of a schedule with the lowest mean; "last" counts as one."""
        return min(
            (arm for arm in self.arms if (arm.schedule, arm.tokens) == (schedule, tokens)),
            key=lambda arm: arm.value.mean,
        )

    def sentences(self) -> Iterator[str]:
        """What the longest runs say, a sentence for each schedule."""
        tokens = self.horizons[-1]
        for schedule in dict.fromkeys(row.schedule for row in self.rows):
            best = self.best(schedule, tokens)
            if best.gained is None:
                said = "no average is better than the last weights"
            else:
                said = f"the best average, {best.average}, changes bits per byte by {_ends(best.gained)}"
            rest = (
                f", against {self.reference}'s last weights by {_ends(best.against)}" if best.against else ""
            )
            yield f"{schedule}, {tokens:,} tokens, {counted(self.seeds, 'seed')}: {said}{rest}."

    def as_json(self) -> dict[str, Any]:
        """For the file: every value, and every comparison."""
        return {
            "reference": self.reference,
            "confidence": self.confidence,
            "seeds": self.seeds,
            "sentences": list(self.sentences()),
            "arms": [asdict(arm) for arm in self.arms],
            "values": [asdict(row) for row in self.rows],
        }


def _ends(found: Difference) -> str:
    """-0.0123 [-0.0150, -0.0096] (better), with what the interval lets one say."""
    word = "better" if found.high < 0 else "worse" if found.low > 0 else "no difference shown"
    return f"{found.mean:+.4f} [{found.low:+.4f}, {found.high:+.4f}] ({word})"


def ends(found: Difference | None) -> str:
    """The same for a table; empty where there is none."""
    return "" if found is None else _ends(found)
