"""What a study of rationales found: accuracies, costs in every currency, what is saved at equal accuracy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from modelwright.base.metrics import counted, finite
from modelwright.evaluation.frontier import Resampled, Saving

ARMS = (("answers", False), ("rationales", True), ("both", False), ("both", True))
"""(what is learned from, whether the student is asked for steps)."""
REFERENCE = ARMS[0]
CLAIM = 0.9
"""The share of the cost that is commonly said to be saved."""
Arm = tuple[str, bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One student, asked in one way."""

    taught: str
    steps: bool
    problems: int
    seed: int
    marks: tuple[int, ...]
    """1 or 0 for each problem that was asked."""
    teacher_tokens: int
    """Read and written by the teacher for all that this student learned from."""
    refused: int
    training_flops: float
    read: float
    """Tokens of a question, in the mean."""
    written: float
    """Tokens of an answer, in the mean."""

    @property
    def arm(self) -> Arm:
        """How it was taught and asked."""
        return self.taught, self.steps


@dataclass(frozen=True, slots=True)
class Costs:
    """How costs are added up, in FLOPs: 2 for each weight and token that is read or written."""

    student: float
    """Weights that a token is multiplied with."""
    teacher: float
    questions: tuple[int, ...]
    """Answers that the student gives in its life."""

    def of(self, row: Measured) -> dict[str, float]:
        """Every currency: what a student of this kind costs."""
        writing = 2.0 * self.teacher * row.teacher_tokens
        answer = 2.0 * self.student * (row.read + row.written)
        sums = {
            f"all, {count:,} questions": writing + row.training_flops + count * answer
            for count in self.questions
        }
        alone = {
            "problems": float(row.problems),
            "teacher tokens": float(row.teacher_tokens),
            "training FLOPs": row.training_flops,
            "tokens of an answer": row.written,
        }
        return alone | sums


@dataclass(frozen=True, slots=True)
class Point:
    """All students of one kind."""

    arm: Arm
    problems: int
    accuracy: float
    low: float
    high: float
    by_seed: tuple[float, ...]
    costs: Mapping[str, float]
    """Currency -> mean over seeds."""
    against: tuple[float, float, float] | None
    """(mean, low, high) of the accuracy less that of answers alone, from as many problems."""


@dataclass(frozen=True)
class Findings:
    """All that was measured, and what follows from it."""

    rows: tuple[Measured, ...]
    costs: Costs
    confidence: float
    teacher: str

    def sizes(self, arm: Arm) -> list[int]:
        """Amounts of problems that an arm was tried with, the smallest first."""
        return sorted({row.problems for row in self.rows if row.arm == arm})

    @property
    def seeds(self) -> int:
        """Students of each kind."""
        return len({row.seed for row in self.rows})

    @cached_property
    def _marks(self) -> dict[Arm, dict[int, np.ndarray]]:
        """(seeds, problems) marks of every kind."""
        found: dict[Arm, dict[int, np.ndarray]] = {}
        for arm in ARMS:
            for size in self.sizes(arm):
                rows = sorted(self._of(arm, size), key=lambda row: row.seed)
                found.setdefault(arm, {})[size] = np.array([row.marks for row in rows], dtype=float)
        return found

    @cached_property
    def _resampled(self) -> Resampled:
        seeds, problems = next(iter(self._marks[REFERENCE].values())).shape
        return Resampled(seeds, problems, self.confidence)

    def _of(self, arm: Arm, size: int) -> list[Measured]:
        return [row for row in self.rows if row.arm == arm and row.problems == size]

    def _costs(self, arm: Arm, size: int) -> dict[str, float]:
        found = [self.costs.of(row) for row in self._of(arm, size)]
        return {name: float(np.mean([each[name] for each in found])) for name in found[0]}

    @cached_property
    def points(self) -> list[Point]:
        """Every kind of student, by way and amount."""
        points: list[Point] = []
        for arm in ARMS:
            for size in self.sizes(arm):
                marks = self._marks[arm][size]
                low, high = self._resampled.interval(self._resampled.accuracies(marks))
                against = None
                if arm != REFERENCE:
                    against = self._resampled.difference(self._marks[REFERENCE][size], marks)
                by_seed = tuple(marks.mean(1).tolist())
                costs = self._costs(arm, size)
                points.append(Point(arm, size, float(marks.mean()), low, high, by_seed, costs, against))
        return points

    def saving(self, arm: Arm, currency: str, at: int) -> Saving:
        """What an arm saves at the accuracy of answers alone from `at` problems."""

        def costs(which: Arm) -> dict[int, float]:
            return {size: self._costs(which, size)[currency] for size in self.sizes(which)}

        return self._resampled.saving(
            self._marks[arm], costs(arm), self._marks[REFERENCE], costs(REFERENCE), at
        )

    @property
    def currencies(self) -> list[str]:
        """What is paid with."""
        return list(self.points[0].costs)

    @cached_property
    def savings(self) -> list[tuple[Arm, int, str, Saving]]:
        """Of each arm, at the accuracy of answers alone from each amount of problems, in each currency."""
        return [
            (arm, size, currency, self.saving(arm, currency, size))
            for arm in ARMS
            if arm != REFERENCE
            for size in self.sizes(REFERENCE)
            for currency in self.currencies
        ]

    @property
    def told(self) -> list[int]:
        """Amounts of answers alone that others are held against in words: the most, and the one before, since
        near all right more data hardly shows."""
        return self.sizes(REFERENCE)[-2:]

    def sentences(self) -> Iterator[str]:
        """What is saved at the accuracies that answers alone come to."""
        for size in self.told:
            base = self.reference(size)
            yield (
                f"Answers alone, {size:,} problems, {counted(self.seeds, 'seed')}: {base.accuracy:.1%}"
                f" [{base.low:.1%}, {base.high:.1%}] right."
            )
            for arm in ARMS[1:]:
                yield f"As often right by {name_of(arm)}: {self._in_all(arm, size)}."

    def reference(self, size: int) -> Point:
        """The students of answers alone, of so many problems."""
        return next(point for point in self.points if (point.arm, point.problems) == (REFERENCE, size))

    def _in_all(self, arm: Arm, size: int) -> str:
        """An arm's savings in every currency, in one sentence."""
        rows = (row for row in self.savings if row[:2] == (arm, size))
        found = [(currency, saving) for _, _, currency, saving in rows]
        if found[0][1].share == -np.inf:
            most = self.sizes(arm)[-1]
            return f"not with up to {most:,} problems ({found[0][1].reached:.0%} of the resamples come there)"
        return "; ".join(f"{currency}: {in_words(saving)}" for currency, saving in found)

    def as_json(self) -> dict[str, Any]:
        """For the file: every value, and every comparison."""
        return {
            "teacher": self.teacher,
            "confidence": self.confidence,
            "claim": CLAIM,
            "costs": asdict(self.costs),
            "sentences": list(self.sentences()),
            "points": [asdict(point) for point in self.points],
            "savings": [
                {"arm": arm, "problems": size, "currency": currency, **_finite(saving)}
                for arm, size, currency, saving in self.savings
            ],
            "students": [
                {name: value for name, value in asdict(row).items() if name != "marks"}
                | {"right": sum(row.marks), "asked": len(row.marks)}
                for row in self.rows
            ],
        }


def name_of(arm: Arm) -> str:
    """ "both, asked for steps"."""
    taught, steps = arm
    return f"{taught}, asked {'for steps' if steps else 'for the result'}"


def in_words(saving: Saving) -> str:
    """A saving with what its interval lets one say of the claim."""
    return ", ".join(filter(None, (amount(saving), verdict(saving))))


def amount(saving: Saving) -> str:
    """What is saved, with its interval."""
    if saving.share == -np.inf:
        return f"not reached ({saving.reached:.0%} of the resamples come there)"
    word = f"{'at least ' if saving.bound else ''}{saving.share:.0%} saved"
    if saving.share < 0:
        word += f" ({1 - saving.share:.2g} times the cost)"
    low = "not reached" if saving.low == -np.inf else f"{saving.low:.0%}"
    return f"{word} [{low}, {saving.high:.0%}]"


def verdict(saving: Saving) -> str:
    """What that says of the claim; nothing where the accuracy is not reached."""
    if saving.share == -np.inf:
        return ""
    if saving.low >= CLAIM:
        return "90 % is borne out"
    if saving.high < CLAIM and not saving.bound:
        return "less than 90 %"
    return "90 % is neither shown nor ruled out"


def _finite(saving: Saving) -> dict[str, Any]:
    """For JSON, which has no infinite numbers: None where the accuracy is not reached."""
    return {name: finite(value) for name, value in asdict(saving).items()}
