"""What a ladder found: its runs, the law with intervals, the compute-optimal size, and the verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from modelwright.planning.isoflop import IsoFlop, isoflop
from modelwright.planning.scaling import Law, Observation, fit
from modelwright.planning.scaling_intervals import Bootstrap, Interval, bootstrap, seed_spread

REPEATS = 4.0
"""Beyond four readings repeated text is worth ever less (arXiv 2305.16264): D overstates it."""
FAR = 10.0
"""How far beyond the most expensive run the optimum is stated: further is a guess, whatever the interval."""
QUANTITIES: dict[str, Callable[[Law], float]] = {
    "E": lambda law: law.E,
    "A": lambda law: law.A,
    "B": lambda law: law.B,
    "alpha": lambda law: law.alpha,
    "beta": lambda law: law.beta,
    "exponent": lambda law: law.exponent,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A finished run of the ladder."""

    name: str
    rung: str
    level: int
    parameters: int
    tokens: int
    flops: float
    flops_per_token: float
    bits_per_byte: float
    bytes_per_token: float
    """Of the held-out text: nats per token = bits per byte x ln 2 x bytes per token."""

    @property
    def nats(self) -> float:
        """Held-out loss in nats per token."""
        return self.bits_per_byte * math.log(2) * self.bytes_per_token

    def row(self) -> dict[str, Any]:
        """For scale.json."""
        return {**asdict(self), "nats_per_token": self.nats}


@dataclass(frozen=True, slots=True)
class Optimum:
    """The best division of a cost."""

    flops: float
    parameters: Interval
    tokens: Interval
    loss: Interval


@dataclass(frozen=True, slots=True)
class Findings:
    """All but the last rung, and what follows from them."""

    runs: tuple[Measured, ...]
    bootstrap: Bootstrap
    law: dict[str, Interval]
    profiles: IsoFlop
    optima: tuple[Optimum, ...]
    noise: float | None
    """Standard deviation of log loss between seeds; None with one seed."""
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """For scale.json. Losses and E, A, B are in nats per token."""
        return {
            "runs": [run.row() for run in self.runs],
            "law": {name: asdict(value) for name, value in self.law.items()},
            "residual_spread": self.bootstrap.fit.spread,
            "seed_spread": self.noise,
            "isoflop": asdict(self.profiles),
            "optima": [asdict(optimum) for optimum in self.optima],
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """The forecast against what came."""

    measured: Measured
    forecast: Interval
    """Nats per token, for a single run."""

    @property
    def inside(self) -> bool:
        """Whether the run fell inside the interval."""
        return self.forecast.holds(self.measured.nats)

    def in_words(self, confidence: float) -> str:
        """For the log and the page."""
        off = self.measured.nats / self.forecast.value - 1
        return (
            f"{self.measured.rung} came to {self.measured.nats:.4f} nats per token, "
            f"{'INSIDE' if self.inside else 'OUTSIDE'} the {confidence:.0%} interval {self.forecast.low:.4f}"
            f" to {self.forecast.high:.4f} ({off:+.2%} from the forecast {self.forecast.value:.4f})"
        )

    def as_json(self) -> dict[str, Any]:
        """For scale.json."""
        return {"inside": self.inside, "forecast": asdict(self.forecast), "run": self.measured.row()}


def conclude(
    runs: Sequence[Measured], available: int, seed: int, replicates: int, huber: float, confidence: float
) -> Findings:
    """The law through the runs. `available` are the tokens of the training text, read once."""
    fitted = fit([Observation(run.parameters, run.tokens, run.nats) for run in runs], huber)
    drawn = bootstrap(fitted, seed, replicates)
    law = {name: drawn.interval(quantity, confidence) for name, quantity in QUANTITIES.items()}
    levels, sizes = [float(run.level) for run in runs], [run.parameters for run in runs]
    top = max(run.flops for run in runs)
    costs = {float(run.level): run.flops for run in runs}
    profiles = isoflop([costs[level] for level in levels], sizes, [run.nats for run in runs])
    groups: dict[tuple[str, int], list[float]] = {}
    for run in runs:
        groups.setdefault((run.rung, run.level), []).append(run.nats)
    optima = tuple(_optimum(drawn, flops, confidence) for flops in (top, top * FAR**0.5, top * FAR))
    noise = seed_spread(list(groups.values()))
    return Findings(tuple(runs), drawn, law, profiles, optima, noise, _notes(runs, available, law, optima))


def _optimum(drawn: Bootstrap, flops: float, confidence: float) -> Optimum:
    return Optimum(
        flops,
        drawn.interval(lambda law: law.optimum(flops)[0], confidence),
        drawn.interval(lambda law: law.optimum(flops)[1], confidence),
        drawn.interval(lambda law: law.loss(*law.optimum(flops)), confidence),
    )


def _notes(
    runs: Sequence[Measured], available: int, law: dict[str, Interval], optima: Sequence[Optimum]
) -> tuple[str, ...]:
    """What a reader should know before believing the figures."""
    notes: list[str] = []
    most = max(run.tokens for run in runs) / available
    if most > REPEATS:
        notes.append(
            f"The longest run reads the text {most:.1f} times; beyond {REPEATS:.0f} a repeated token is worth"
            " less than a new one, so beta comes out too low. Give the recipe more text."
        )
    best, sizes = optima[0].parameters.value, [run.parameters for run in runs]
    if not min(sizes) <= best <= max(sizes):
        notes.append(
            f"At the highest cost the best size is {best:,.0f} parameters, outside the fitted sizes: rungs"
            f" {'smaller' if best < min(sizes) else 'larger'} than these would tell."
        )
    wide = [name for name in ("alpha", "beta") if law[name].high > 3 * law[name].low]
    if wide:
        notes.append(
            f"The interval of {' and '.join(wide)} spans more than a factor of three: the forecast"
            " next door may hold all the same, but the optimum far away does not. More runs narrow it."
        )
    return tuple(notes)
