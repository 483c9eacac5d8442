"""Which weights of a training are handed on, and when it has gone on for long enough.

Who trains long on few examples learns them by heart: held-out loss falls, and then it rises. Two answers,
alone or together: end when no measurement has been better for a while (early stopping; Prechelt 1998, "Early
stopping, but when?"), and hand on the weights that measured best. Both go by the first value that a stage
measures on held-out data; lower is better. Weights that measured best lie apart from the checkpoints, so the
two need not fall on the same steps, and nothing is kept where `keep` is "last". What is decided here follows
from the measurements and is part of a checkpoint, so a resumed run decides the same.

The best of many noisy measurements looks better than it is: `average` can compare on texts that had no part
in the choice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from modelwright.base.config import Config
from modelwright.base.metrics import finite, in_words
from modelwright.base.run import Run
from modelwright.training.spread import Spread

BEST = "best"
"""Folder of the weights that measured best, below that of the run."""


class StopEarlyConfig(Config):
    """When training ends before its last step."""

    patience: int = Field(default=3, gt=0)
    """Measurements in a row that are no better, after which it ends."""
    at_least: float = Field(default=0.0, ge=0)
    """How much lower a value has to be to count as better, in its own unit (nats a token, bits a byte)."""


class Keeping:
    """Follows what is measured on held-out data in a training of at most `steps` steps."""

    def __init__(
        self,
        stop: StopEarlyConfig | None,
        keep: Literal["last", "best"],
        spread: Spread,
        run: Run,
        steps: int,
    ) -> None:
        self._stop, self._spread, self._run, self._steps = stop, spread, run, steps
        self._store = spread.checkpoints(run.dir / BEST, 1, False) if keep == "best" else None
        self._best = self._beaten = math.inf
        """The lowest value, and the last one that was lower than the one before it by enough."""
        self._waited = 0
        self.stopped = ""
        """Why training ends here; "" while it goes on."""

    def judge(self, step: int, measured: Mapping[str, float]) -> dict[str, str]:
        """What was measured after `step` steps: keep the weights if they are the best so far, and decide
        whether to go on. What there is to say, for the metrics of the step."""
        if not measured or (self._stop is None and self._store is None):
            return {}
        name, value = next(iter(measured.items()))
        if value < self._best:  # false for what is no number
            self._best = value
            if self._store is not None:
                self._store.save(step, {"model": self._spread.parameters()}, {"measured": dict(measured)})
        needed = self._stop.at_least if self._stop else 0.0
        if value < self._beaten - needed:
            self._beaten, self._waited = value, 0
        else:
            self._waited += 1
        if self._stop is None or self._waited < self._stop.patience or step == self._steps:
            return {}
        better = f" by {needed:g} or more" if needed else ""
        self.stopped = (
            f"{in_words(name)} has not fallen{better} below {self._beaten:.6g} "
            f"in {self._waited} measurements in a row"
        )
        self._run.log(f"step {step:,}: training ends early: {self.stopped}")
        return {"stopped_early": self.stopped}

    def finish(self, step: int, measured: Mapping[str, float]) -> dict[str, Any]:
        """After the last step: put the weights in place that are handed on. What was measured of them, which
        step they are of, and why."""
        if self._stop is None and self._store is None:
            return dict(measured)
        found: dict[str, Any] = {**measured, "kept_step": step, "kept_because": "they are the last"}
        best = self._store.newest_whole(self._run.log) if self._store else None
        if best is not None and best.step != step:
            self._spread.load(best.tensors("model", self._spread.layout))
            found = {**best.state()["measured"], "kept_step": best.step}
        if best is not None:
            name, value = next(iter(best.state()["measured"].items()))
            found["kept_because"] = f"{in_words(name)} was lowest there: {value:.6g}"
            self._run.log(f"weights after step {best.step:,} of {step:,} are kept: {found['kept_because']}")
        return found | ({"stopped_early": self.stopped} if self.stopped else {})

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold. JSON knows no infinity."""
        values = [finite(self._best), finite(self._beaten)]
        return {"values": values, "waited": self._waited, "stopped": self.stopped}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        best, beaten = (math.inf if value is None else float(value) for value in state["values"])
        self._best, self._beaten = best, beaten
        self._waited, self.stopped = int(state["waited"]), str(state["stopped"])
