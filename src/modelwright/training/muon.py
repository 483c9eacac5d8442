"""Muon for matrices (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/).

The momentum of a matrix is replaced by the nearest (semi-)orthogonal matrix, found by a few Newton-Schulz
steps, so that every direction is learned at the same speed. Stacks of matrices, such as the experts of a
mixture, are treated matrix by matrix.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Iteration = Literal["jordan", "polar"]
JORDAN = (3.4445, -4.7750, 2.0315)
"""One quintic for every step, chosen for its slope at zero and not for convergence to 1: singular values end
up between about 0.7 and 1.2."""
POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
)
"""The best quintic for each step, given the ones before, on singular values from 0.001 to 1
(arXiv 2505.16932, algorithm 1). Those of a row of fewer steps are the first of a longer one."""
SAFETY = 1.01
"""The polynomials are stretched by this, as in the paper: rounding in bf16 takes values beyond 1."""


def coefficients(iteration: Iteration, steps: int) -> tuple[tuple[float, float, float], ...]:
    """(a, b, c) of x -> a x + b x^3 + c x^5 for each step."""
    if iteration == "jordan":
        return (JORDAN,) * steps
    stretched = tuple((a / SAFETY, b / SAFETY**3, c / SAFETY**5) for a, b, c in POLAR_EXPRESS[:-1])
    rows = (*stretched, *((POLAR_EXPRESS[-1],) * max(1, steps - len(stretched))))
    return rows[:steps]


def orthogonalize(matrices: Tensor, steps: int = 5, iteration: Iteration = "jordan") -> Tensor:
    """The orthogonal factor of each (M, N) matrix in a (..., M, N) stack, roughly. Runs in the given dtype;
    bf16 is enough."""
    x = matrices.flatten(0, -3)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    tall = x.shape[-2] > x.shape[-1]
    for a, b, c in coefficients(iteration, steps):
        gram = x.mT @ x if tall else x @ x.mT  # by the shorter side, and no transpose is written out
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)  # b gram + c gram^2
        factors = (x, polynomial) if tall else (polynomial, x)
        x = torch.baddbmm(x, *factors, beta=a)  # a x + (b gram + c gram^2) x
    return x.unflatten(0, matrices.shape[:-2])


def scale_of(rows: int, columns: int, rule: Literal["spectral", "rms"]) -> float:
    """What an orthogonal update is multiplied with. spectral: sqrt(max(1, rows / columns)), the size at which
    every layer's output changes alike. rms: 0.2 sqrt(max(rows, columns)), the size of AdamW's updates, whose
    rates then fit too (arXiv 2502.16982, section 2.2)."""
    if rule == "rms":
        return 0.2 * max(rows, columns) ** 0.5
    return max(1.0, rows / columns) ** 0.5


def neuron_axis(rows: int, columns: int) -> Literal[-1, -2]:
    """The axis over which NorMuon takes a neuron's size: along the shorter side an orthogonal matrix is even
    already, so neurons are the rows of a tall matrix and the columns of a wide one."""
    return -1 if rows >= columns else -2


def even_out(squares: Tensor, second: Tensor, beta: float) -> Tensor:
    """NorMuon (arXiv 2510.05491): what each neuron's part of an update is multiplied with, so that it is
    divided by its own running size while the norm of the whole matrix stays, which also makes a correction
    of bias idle.

    squares (..., max(M, N)): mean squares of orthogonal (..., M, N) updates over `neuron_axis`; `second`, as
    large, their running mean, changed in place. They are all that it takes, so matrices may lie in pieces.
    """
    second.lerp_(squares, 1 - beta)
    inverse = 1 / (second + 1e-10)
    size = squares.sum(-1, keepdim=True) / ((squares * inverse).sum(-1, keepdim=True) + 1e-20)
    return (inverse * size).sqrt()
