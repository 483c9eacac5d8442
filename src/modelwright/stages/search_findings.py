"""What a search found: each trial's held-out loss with its interval, and which can be told from the best."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from modelwright.evaluation.statistics import Difference, Interval, Scores, holm, t_interval

CONFIDENCE = 0.95
BEST, SAME, WORSE = "best", "not told apart from the best", "worse"


@dataclass(frozen=True, slots=True)
class Trial:
    """A short training with one learning rate and one rank, judged on the held-out conversations."""

    learning_rate: float
    rank: int | None
    """None where all weights are trained."""
    seconds: float
    scores: Scores | None
    """Nats and learned tokens of each held-out conversation; None where the training failed."""
    failed: str = ""
    """Why, in that case."""

    @property
    def name(self) -> str:
        """`0.0003, rank 16`."""
        return f"{self.learning_rate:g}{f', rank {self.rank}' if self.rank else ''}"


@dataclass(frozen=True, slots=True)
class Row:
    """A trial beside the best one."""

    trial: Trial
    loss: Interval
    """Nats a learned token; the interval is over conversations."""
    against_best: Difference | None
    """Conversation by conversation; None for the best itself."""
    p_adjusted: float
    """Corrected for the number of trials (Holm)."""

    @property
    def verdict(self) -> str:
        """What may be said."""
        if self.against_best is None:
            return BEST
        return SAME if self.p_adjusted >= 1 - CONFIDENCE else WORSE


@dataclass(frozen=True)
class Findings:
    """All trials, and the model as it was before."""

    trials: tuple[Trial, ...]
    before: Scores
    not_tried: tuple[str, ...]
    """For want of time."""

    @cached_property
    def rows(self) -> list[Row]:
        """Trials that ended well, the best first."""
        done = sorted(
            ((trial, trial.scores) for trial in self.trials if trial.scores), key=lambda pair: pair[1].value
        )
        if not done:
            return []
        best = done[0][1]
        against = {trial.name: scores.against(best, CONFIDENCE) for trial, scores in done[1:]}
        adjusted = holm({name: found.p_value for name, found in against.items()})
        return [
            Row(
                trial,
                t_interval(scores.contributions(), CONFIDENCE),
                against.get(trial.name),
                adjusted.get(trial.name, 1.0),
            )
            for trial, scores in done
        ]

    @property
    def chosen(self) -> Trial:
        """The one with the lowest held-out loss."""
        return self.rows[0].trial

    def sentences(self) -> Iterator[str]:
        """What follows, in words."""
        best, *others = self.rows
        before = t_interval(self.before.contributions(), CONFIDENCE)
        yield (
            f"Chosen: learning rate {best.trial.name}, held-out loss {_shown(best.loss)} nats a token after"
            f" the slice; {_shown(before)} before any training, over {best.loss.n} conversations."
        )
        if same := [row.trial.name for row in others if row.verdict == SAME]:
            yield f"Not told apart from it on these conversations: {'; '.join(same)}."
        elif others:
            yield "All others are worse, beyond chance."
        gain = best.trial.scores.against(self.before, CONFIDENCE) if best.trial.scores else None
        if gain and gain.high >= 0:
            yield "WARNING: it is not shown to be better than no training: look at the data, or search wider."
        for trial in self.trials:
            if trial.failed:
                yield f"Learning rate {trial.name} failed: {trial.failed}"
        if self.not_tried:
            yield f"Not tried, for want of time: {'; '.join(self.not_tried)}."
        if edge := self._edge():
            yield edge

    def _edge(self) -> str:
        """A word where the best rate is the lowest or the highest one tried."""
        rates = sorted({row.trial.learning_rate for row in self.rows})
        ends = {rates[0]: "lowest", rates[-1]: "highest"} if len(rates) > 1 else {}
        place = ends.get(self.chosen.learning_rate)
        return f"It is the {place} rate that was tried: a search further on may find better." if place else ""

    def as_json(self) -> dict[str, Any]:
        """For the file."""
        return {
            "unit": "nats per learned token",
            "confidence": CONFIDENCE,
            "before": self.before.value,
            "sentences": list(self.sentences()),
            "trials": [
                {
                    "learning_rate": row.trial.learning_rate,
                    "rank": row.trial.rank,
                    "seconds": row.trial.seconds,
                    "loss": asdict(row.loss),
                    "against_best": asdict(row.against_best) if row.against_best else None,
                    "p_adjusted": row.p_adjusted,
                    "verdict": row.verdict,
                }
                for row in self.rows
            ],
            "not_tried": list(self.not_tried),
        }


def _shown(value: Interval) -> str:
    return f"{value.mean:.4f} [{value.low:.4f}, {value.high:.4f}]"
