"""Scaling laws: how the loss falls with parameters N and training tokens D.

    L(N, D) = E + A / N**alpha + B / D**beta

is approach 3 of Hoffmann et al. (arXiv 2203.15556): the sum of a Huber loss over the runs, of the
difference of log losses, at its minimum. Besiroglu et al. (arXiv 2404.10102) found what went wrong in
the paper's own fit: a mean in the place of the sum, so that the optimizer stopped early; parameters
rounded until they no longer predict; intervals too narrow by far. Here the sum is minimised until steps
are at rounding's size, parameters keep all digits, and the intervals (`scaling_intervals`) are tested by
simulation for how often they hold the truth.

Many starts are needed, since the surface has several minima. They all advance together, as rows of one
array, by damped Gauss-Newton steps with Huber's weights (Levenberg-Marquardt): a few hundred numpy
calls replace thousands of runs of L-BFGS, and the minimum is the same (tested against L-BFGS).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modelwright.base.errors import UserError

HUBER = 1e-3
"""Where Huber's loss goes from square to straight, in log loss: the value of the paper."""
WIDE = 0.03
"""The same while the starts come down from afar."""
EXPONENTS = (0.01, 3.0)
"""alpha and beta are kept between these: every published value lies within 0.05 to 0.8."""
MAX_STEPS = 300
MIN_RUNS, MIN_VALUES = 8, 3
"""Five parameters leave three degrees of freedom in eight runs; an exponent and an asymptote need three
sizes and three horizons."""

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Observation:
    """A finished run."""

    parameters: float
    """N, counted the same way in all runs."""
    tokens: float
    """D, tokens trained on."""
    loss: float
    """Held-out loss, in nats per token (any unit does, if it is the same in all runs)."""


@dataclass(frozen=True, slots=True)
class Law:
    """A fitted law. `A` and `B` are in the unit of the loss, for N in parameters and D in tokens."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def loss(self, parameters: float, tokens: float) -> float:
        """L(N, D)."""
        return self.E + self.A / parameters**self.alpha + self.B / tokens**self.beta

    @property
    def exponent(self) -> float:
        """a in N_opt ~ C**a; 0.5 means that size and data grow alike."""
        return self.beta / (self.alpha + self.beta)

    def optimum(self, flops: float) -> tuple[float, float]:
        """(N, D) of the lowest loss that `flops` = 6 N D can buy (the paper's equation 4)."""
        g = (self.alpha * self.A / (self.beta * self.B)) ** (1 / (self.alpha + self.beta))
        parameters = g * (flops / 6) ** self.exponent
        return parameters, flops / 6 / parameters


@dataclass(frozen=True, slots=True)
class Design:
    """Where the runs were made: log N and log D about their means, so that no parameter is far away."""

    n: Array
    d: Array
    mean_n: float
    mean_d: float

    @classmethod
    def of(cls, observations: Sequence[Observation]) -> Design:
        """The design of these runs."""
        n = np.log([run.parameters for run in observations])
        d = np.log([run.tokens for run in observations])
        return cls(n - n.mean(), d - d.mean(), float(n.mean()), float(d.mean()))

    def law(self, theta: Array) -> Law:
        """Parameters as `minimize` has them -> the law."""
        a, b, e, alpha, beta = (float(value) for value in theta)
        alpha, beta = math.exp(alpha), math.exp(beta)
        return Law(
            E=math.exp(e),
            A=math.exp(a + alpha * self.mean_n),
            B=math.exp(b + beta * self.mean_d),
            alpha=alpha,
            beta=beta,
        )

    def predicted(self, theta: Array) -> Array:
        """(R, n) log loss of the runs, for (R, 5) rows of parameters."""
        return _predicted(theta, self.n, self.d)[0]

    def predict(self, theta: Array, parameters: float, tokens: float) -> Array:
        """(R,) log loss at another place, for (R, 5) rows of parameters."""
        n, d = math.log(parameters) - self.mean_n, math.log(tokens) - self.mean_d
        return _predicted(theta, np.array([n]), np.array([d]))[0][:, 0]


@dataclass(frozen=True, slots=True)
class Fit:
    """The best law, and what is needed to ask how sure it is."""

    law: Law
    theta: Array
    """(5,) log A', log B', log E, log alpha, log beta, where A' and B' are the terms at the design's mean."""
    design: Design
    residuals: Array
    """(n,) log of measured over predicted loss, in the order of the runs."""
    delta: float

    @property
    def spread(self) -> float:
        """Standard deviation of the residuals, as a share of the loss, 5 parameters taken off."""
        return float(np.sqrt((self.residuals**2).sum() / (len(self.residuals) - 5)))


def fit(observations: Sequence[Observation], delta: float = HUBER) -> Fit:
    """The law through these runs.

    Raises UserError where they cannot carry five parameters: fewer than 8 runs, or fewer than three
    different sizes or horizons, or a loss that is not a positive number.
    """
    _refuse(observations)
    design = Design.of(observations)
    losses = np.log([run.loss for run in observations])
    starts = grid_of_starts(float(losses.min()))
    rows = np.broadcast_to(losses, (len(starts), len(losses)))
    theta, sums = minimize(design, rows, starts, (max(delta, WIDE), delta))
    best = theta[int(sums.argmin())]
    residuals = losses - design.predicted(best[None])[0]
    return Fit(design.law(best), best, design, residuals, delta)


def _refuse(observations: Sequence[Observation]) -> None:
    sizes = {run.parameters for run in observations}
    horizons = {run.tokens for run in observations}
    if len(observations) < MIN_RUNS or len(sizes) < MIN_VALUES or len(horizons) < MIN_VALUES:
        raise UserError(
            f"a scaling law has 5 parameters and was given {len(observations)} runs of {len(sizes)} sizes"
            f" and {len(horizons)} horizons; expected at least {MIN_RUNS} runs of {MIN_VALUES} sizes and "
            f"{MIN_VALUES} horizons: add rungs, levels or seeds"
        )
    bad = [
        run for run in observations if not (0 < run.loss < math.inf and min(run.parameters, run.tokens) > 0)
    ]
    if bad:
        raise UserError(f"a scaling law needs positive sizes, tokens and losses, and was given {bad[0]}")


def grid_of_starts(lowest: float) -> Array:
    """(S, 5) starts: how the lowest log loss may divide among the three terms, and how steep they may be."""
    rows: list[list[float]] = []
    for rest, share in itertools.product((0.2, 0.5, 0.8), (0.2, 0.5, 0.8)):
        for alpha, beta in itertools.product((0.15, 0.35, 0.8), repeat=2):
            terms = (1 - rest) * share, (1 - rest) * (1 - share), rest
            rows.append([lowest + math.log(term) for term in terms] + [math.log(alpha), math.log(beta)])
    return np.array(rows)


def minimize(
    design: Design, log_losses: Array, starts: Array, corners: Sequence[float], tolerance: float = 1e-9
) -> tuple[Array, Array]:
    """Minimum near each of (R, 5) `starts`, each for its own row of (R, n) log losses.

    Returns (R, 5) parameters and (R,) sums of Huber's loss for the last of `corners`. The first may be
    wider, since from afar a sharp corner looks the same everywhere. A step that does not lower the sum is
    not taken, and the next one is damped more; a row whose step lowers it by less than `tolerance` of the
    sum is left alone.
    """
    theta, sums = starts.copy(), np.empty(len(starts))
    for corner in corners:
        sums = _huber(design.predicted(theta) - log_losses, corner)
        damping, live = np.full(len(theta), 1e-2), np.arange(len(theta))
        for _ in range(MAX_STEPS):
            step = _step(theta[live], design, log_losses[live], corner, damping[live])
            proposed = _clip(theta[live] + step)
            reached = _huber(design.predicted(proposed) - log_losses[live], corner)
            better, gain = reached < sums[live], sums[live] - reached
            theta[live[better]], sums[live[better]] = proposed[better], reached[better]
            damping[live] = np.where(better, damping[live] / 3, damping[live] * 4)
            done = np.where(better, gain < tolerance * sums[live], damping[live] > 1e4)
            live = live[~done & (sums[live] > 1e-24)]
            if not len(live):
                break
    return theta, sums


def _predicted(theta: Array, n: Array, d: Array) -> tuple[Array, Array]:
    """(R, n) log loss, and (R, n, 3) the share that each term has in the loss."""
    terms = np.stack(
        (
            theta[:, None, 0] - np.exp(theta[:, None, 3]) * n,
            theta[:, None, 1] - np.exp(theta[:, None, 4]) * d,
            np.broadcast_to(theta[:, None, 2], (len(theta), len(n))),
        ),
        axis=-1,
    )
    top = terms.max(-1, keepdims=True)
    raised = np.exp(terms - top)
    total = raised.sum(-1, keepdims=True)
    return (top + np.log(total))[..., 0], raised / total


def _step(theta: Array, design: Design, log_losses: Array, delta: float, damping: Array) -> Array:
    """(R, 5) the damped Gauss-Newton step of each row, with Huber's weights."""
    predicted, share = _predicted(theta, design.n, design.d)
    residual = predicted - log_losses
    weight = delta / np.maximum(np.abs(residual), delta)
    slope = np.concatenate(
        (
            share,
            (-share[..., 0] * np.exp(theta[:, None, 3]) * design.n)[..., None],
            (-share[..., 1] * np.exp(theta[:, None, 4]) * design.d)[..., None],
        ),
        axis=-1,
    )
    weighted = slope * weight[..., None]
    gradient = weighted.mT @ residual[..., None]
    curvature = weighted.mT @ slope
    diagonal = curvature[:, range(5), range(5)]
    curvature[:, range(5), range(5)] += damping[:, None] * (diagonal + 1e-12) + 1e-14
    step = np.linalg.solve(curvature, -gradient)[..., 0]
    return np.clip(step, -2.0, 2.0)


def _clip(theta: Array) -> Array:
    """Exponents within bounds; no term below 1e-12 of the others, where nothing could move it any more."""
    theta[:, 3:] = np.clip(theta[:, 3:], math.log(EXPONENTS[0]), math.log(EXPONENTS[1]))
    floor = theta[:, :3].max(-1, keepdims=True) - 28.0
    theta[:, :3] = np.maximum(theta[:, :3], floor)
    return theta


def _huber(residual: Array, delta: float) -> Array:
    """(R,) sum over the last axis of Huber's loss, divided by delta to keep numbers near the residuals'."""
    size = np.abs(residual)
    return np.where(size <= delta, 0.5 * size**2 / delta, size - 0.5 * delta).sum(-1)
