"""What a guess costs, measured while the engine runs: steps with guesses beside steps without.

It depends on the model, its format and the machine: next to nothing where reading weights bounds a step, a
whole step where rows of one and of several tokens are computed apart. And on how many requests there are: a
right guess saves one of them a step that the others would have taken anyway, so it is worth the less, the
more they are. Costs are therefore counted in tokens: as many as come without guesses in the same time.
"""

from __future__ import annotations

from dataclasses import dataclass

ROW = 0.05
"""What a guess is believed to take before anything is known, in steps without guesses."""
LEAST, MOST = 0.005, 2.0
"""Bounds of what is believed of one step: clocks are noisy."""
RECENT = 10
"""Steps over which is averaged, about."""
FIRST, EVERY = 4, 64
"""So many steps without guesses come first, and one after so many with guesses, to compare with."""


@dataclass(slots=True)
class _Steps:
    """Those of one number of requests."""

    plain: float = 0.0
    """Seconds without guesses, on average, of so many steps:"""
    plains: int = 0
    cost: float = 0.0
    since: int = 0
    """Steps with guesses since the last one without."""


class Pace:
    """The cost of a guess, for each number of requests that decode."""

    def __init__(self) -> None:
        self._steps: dict[int, _Steps] = {}

    def saw(self, requests: int, guesses: int, seconds: float) -> None:
        """A step in which so many requests decoded, with so many guesses in all, took so long."""
        steps = self._steps.setdefault(requests, _Steps(cost=ROW * requests))
        if not guesses:
            steps.plains, steps.since = steps.plains + 1, 0
            steps.plain += (seconds - steps.plain) / min(steps.plains, RECENT)
        elif steps.plains:
            cost = (seconds / steps.plain - 1) * requests / guesses
            steps.cost += (min(max(cost, LEAST), MOST) - steps.cost) / RECENT
            steps.since += 1

    def cost(self, requests: int) -> float:
        """What a guess costs, in tokens: it pays if it is right with a higher probability."""
        return self._steps[requests].cost if requests in self._steps else ROW * requests

    def compares(self, requests: int) -> bool:
        """Whether the next step should be one without guesses."""
        steps = self._steps.get(requests)
        return steps is None or steps.plains < FIRST or steps.since >= EVERY
