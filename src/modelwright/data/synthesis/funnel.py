"""How many rows were left after each step, what the others were like, and what a kept row costs."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

from modelwright.base.schema import Json, Reason

EXAMPLES = 3
SHOWN_CHARACTERS = 600


class Example(NamedTuple):
    """A text that was not kept, and what was said of it."""

    text: str
    says: str


@dataclass
class Step:
    """What came to one step, and what became of it."""

    name: str
    came: int = 0
    reasons: Counter[str] = field(default_factory=Counter[str])
    """Rule -> how many it took out."""

    @property
    def left(self) -> int:
        """How many went on."""
        return self.came - self.reasons.total()


class Funnel:
    """Counts what comes to each step and what is taken out there, with the first examples of each reason."""

    def __init__(self) -> None:
        self._steps: dict[str, Step] = {}
        self._examples: defaultdict[str, list[Example]] = defaultdict(list)

    def came(self, step: str, count: int = 1) -> None:
        """So many more came to a step. Steps stand in the order in which they are first named."""
        self._steps.setdefault(step, Step(step)).came += count

    def out(self, step: str, reason: Reason, text: str) -> None:
        """One of those that came is taken out."""
        self._steps[step].reasons[reason.rule] += 1
        examples = self._examples[reason.rule]
        if len(examples) < EXAMPLES:
            examples.append(Example(text[:SHOWN_CHARACTERS], str(reason)))

    @property
    def steps(self) -> list[Step]:
        """In order."""
        return list(self._steps.values())

    @property
    def examples(self) -> dict[str, list[Example]]:
        """Rule -> the first texts that it took out."""
        return dict(self._examples)

    def as_json(self) -> list[dict[str, Json]]:
        """For the manifest: each step, what came, what was left, and the reasons, the most frequent first."""
        return [
            {
                "step": step.name,
                "came": step.came,
                "left": step.left,
                "reasons": dict(step.reasons.most_common()),
            }
            for step in self.steps
        ]

    def lines(self) -> list[str]:
        """For the log."""
        made: list[str] = []
        for step in self.steps:
            taken = "; ".join(f"{rule} {count:,}" for rule, count in step.reasons.most_common())
            made.append(
                f"{step.name}: {step.came:,} came, {step.left:,} left{f' ({taken})' if taken else ''}"
            )
        return made
