"""Watches losses and gradient norms: an update that looks wrong is not applied, and a run that has gone
wrong goes back to its last good checkpoint.

A value is a spike when it lies far above the last ones, by their median and median absolute deviation,
which a single outlier cannot move (the rule of OLMo 2, arXiv 2501.00656, takes mean and standard
deviation). Steps are compared with those of their kind: where an objective measures other things (in a
distillation, a student's own answers instead of the rows'), its loss is of another size, and each step of a
rare kind would look like a spike. The second step of a kind already has a limit, a wide one, which comes
nearer with every healthy step: losses fall fast at first, and norms are wild while rates warm up.

A batch whose update was withheld is passed over: it is not read again. After several in a row the weights go
back to the checkpoint before the first of them, and training goes on behind the last (as in PaLM, arXiv
2204.02311, section 5.1). Several in a row of one kind, between healthy steps of others, are no divergence:
what is usual for the kind has changed, and is learned anew. All that is decided here follows from the values
of the run and is part of a checkpoint, so a resumed run decides the same.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from modelwright.base.config import Config
from modelwright.base.metrics import figure

Recent = dict[str, deque[float]]
"""Watched value -> what it was in the healthy steps of late."""
WATCHED = {"loss": 0.05, "grad_norm": 0.5}
"""Value -> the least spread that is believed, as a share of the median: losses are steady, norms are not."""
LEAST_SPREAD = 0.02
"""The same as it is: a student that begins as its teacher has losses and norms near zero, and a thousandfold
of nothing is nothing."""
AT_FIRST = 10.0
"""How much further away a limit is when a kind is new: five times the first loss, forty times its norm."""

COUNTS = ("withheld", "withheld_in_all", "rollbacks")


class GuardConfig(Config):
    """What counts as a spike, and what is done about it."""

    spikes: Literal["skip", "record", "ignore"] = "skip"
    """skip: the update is withheld. record: it is applied, and said. What is not finite is never applied."""
    window: int = Field(default=128, ge=8)
    """Healthy steps of its kind that a new one is compared with."""
    settled: int = Field(default=32, ge=4)
    """Healthy steps of a kind until its limit is where `deviations` puts it; before, it lies further away."""
    deviations: float = Field(default=8.0, gt=0)
    """How far above the median a spike lies, in robust standard deviations."""
    patience: int = Field(default=3, ge=1)
    """Withheld updates in a row after which training goes back to a checkpoint."""
    max_rollbacks: int = Field(default=3, ge=0)
    """Going back more often than that is a failure: the settings are wrong, not a batch."""

    @model_validator(mode="after")
    def _window_holds_what_settles(self) -> Self:
        if self.settled > self.window:
            raise ValueError(f"settled ({self.settled}) is more than the window keeps ({self.window})")
        return self


class Action(Enum):
    """What to do with an update."""

    APPLY = "apply"
    SKIP = "skip"
    ROLL_BACK = "roll back"
    GIVE_UP = "give up"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do with an update, and why."""

    action: Action
    reason: str = ""

    def event(self, cause: str = "") -> dict[str, float | str]:
        """What the metrics of the step say of it and of its cause: nothing where there was no reason to."""
        said = f"{self.action.value}: {self.reason}"
        return {"event": f"{said}; {cause}" if cause else said} if self.reason else {}


class Guard:
    """Judges one step after the other."""

    def __init__(self, config: GuardConfig) -> None:
        self._config = config
        self._recent: dict[str, Recent] = {}
        self._refused: dict[str, int] = {}
        """Kind -> its spikes in a row, whatever steps of other kinds lay between them."""
        self.withheld = 0
        """Updates withheld in a row, up to the one judged last."""
        self.withheld_in_all = 0
        self.rollbacks = 0

    def judge(self, values: Mapping[str, float]) -> Verdict:
        """`values` of a step before its update is applied: at least the loss and the gradient norm."""
        kind = kind_of(values)
        broken = [name for name, value in values.items() if not math.isfinite(value)]
        reason = f"{', '.join(broken)} not finite" if broken else self._spike(values, kind)
        if not broken and (not reason or self._config.spikes != "skip"):
            self._take_in(values, kind)
            return Verdict(Action.APPLY, reason)
        self.withheld += 1
        self.withheld_in_all += 1
        if self.withheld < self._config.patience:
            return Verdict(Action.SKIP, reason if broken else reason + self._refuse(kind))
        return self.back(reason)

    def back(self, reason: str) -> Verdict:
        """Back to a checkpoint, or the end where that was done too often."""
        self.rollbacks += 1
        often = self.rollbacks > self._config.max_rollbacks
        return Verdict(Action.GIVE_UP if often else Action.ROLL_BACK, reason)

    def went_back(self, then: Mapping[str, Any] | None = None) -> None:
        """The weights are old ones now, and `then` is the `state` of their time. The last healthy steps of
        then say what is usual, so that there are limits, but wide ones; the fewer, the more often training
        went back: what is read now may be of another kind. Without `then`, what is usual is learned anew."""
        self.withheld = 0
        self._refused.clear()
        self._recent.clear()
        if then is not None:
            self._remember(then["recent"], self._config.settled >> 2 * self.rollbacks)

    def _refuse(self, kind: str) -> str:
        """Count a spike between healthy steps of other kinds; after several in a row it is none, and this
        says so."""
        self._refused[kind] = self._refused.get(kind, 0) + 1
        if self._refused[kind] < self._config.patience:
            return ""
        del self._recent[kind], self._refused[kind]
        return "; others of its kind were like it, so the next ones are taken as usual"

    def _take_in(self, values: Mapping[str, float], kind: str) -> None:
        self.withheld = 0
        self._refused.pop(kind, None)
        for name, recent in self._of_kind(kind).items():
            recent.append(values[name])

    def _remember(self, before: Mapping[str, Any], newest: int) -> None:
        for kind, recent in before.items():
            if not newest or not isinstance(recent, Mapping):
                continue  # a list was written before there were kinds: what is usual is learned anew
            for name, values in self._of_kind(kind).items():
                values.extend(recent[name][-newest:])

    def _of_kind(self, kind: str) -> Recent:
        if kind not in self._recent:
            self._recent[kind] = {name: deque(maxlen=self._config.window) for name in WATCHED}
        return self._recent[kind]

    def _spike(self, values: Mapping[str, float], kind: str) -> str:
        """Which value lies too far above the recent ones; "" where none does."""
        if self._config.spikes == "ignore":
            return ""
        for name in WATCHED:
            limit = self.limit(name, kind)
            if values[name] > limit:
                usual = statistics.median(self._recent[kind][name])
                return f"{name} {values[name]:.4g}, usual {usual:.4g}, limit {limit:.4g}"
        return ""

    def limit(self, name: str, kind: str = "") -> float:
        """From where on a value is a spike; infinite for the first healthy step of a kind."""
        recent = self._recent[kind][name] if kind in self._recent else ()
        if not recent:
            return math.inf
        median = statistics.median(recent)
        spread = 1.4826 * statistics.median(abs(value - median) for value in recent)
        spread = max(spread, WATCHED[name] * abs(median), LEAST_SPREAD)
        unsettled = max(0.0, 1 - len(recent) / self._config.settled)
        return median + self._config.deviations * AT_FIRST**unsettled * spread

    def usual(self, name: str, kind: str = "") -> tuple[float, float] | None:
        """Between which bounds nine in ten of a kind's recent healthy values lie; None until enough were
        seen."""
        recent = sorted(self._recent[kind][name]) if kind in self._recent else []
        if len(recent) < self._config.settled:
            return None
        outside = len(recent) // 20
        return recent[outside], recent[-1 - outside]

    def dashboard(self, values: Mapping[str, float]) -> dict[str, str]:
        """Each watched value in words, beside what is usual: "0.84 (usual 0.5-1.1)"."""
        shown: dict[str, str] = {}
        for name in WATCHED:
            usual = self.usual(name, kind_of(values))
            range_ = f" (usual {figure(usual[0])}-{figure(usual[1])})" if usual else ""
            shown[name] = figure(values[name]) + range_
        return shown

    def totals(self) -> dict[str, float]:
        """For the manifest: how much was withheld and taken back."""
        return {"updates_withheld": self.withheld_in_all, "rollbacks": self.rollbacks}

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        recent = {
            kind: {name: list(values) for name, values in each.items()} for kind, each in self._recent.items()
        }
        counts = {name: getattr(self, name) for name in COUNTS}
        return {"recent": recent, "refused": dict(self._refused), **counts}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        self._recent.clear()
        self._remember(state["recent"], self._config.window)
        self._refused = {kind: int(count) for kind, count in state.get("refused", {}).items()}
        for name in COUNTS:
            setattr(self, name, int(state[name]))


def kind_of(values: Mapping[str, float]) -> str:
    """What a step's objective measured, besides what is watched: steps that have the same are of one kind."""
    return ",".join(sorted(values.keys() - WATCHED.keys()))
