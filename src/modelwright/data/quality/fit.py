"""Logistic regression on sparse rows by AdaGrad (Duchi et al., JMLR 12, 2011)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modelwright.data.quality.features import Vector


@dataclass(frozen=True, slots=True)
class Weights:
    """score = 1 / (1 + exp(-(bias + sum of weight x value)))"""

    bucket: NDArray[np.float32]
    """(2^bits,)"""
    bias: float


def fit(
    rows: Sequence[Vector], labels: NDArray[np.float32], bits: int, epochs: int, rate: float, seed: int
) -> Weights:
    """Weights that make labels (1 good, 0 ordinary) likely. Both kinds weigh the same, however many there
    are; rows are taken in an order drawn from the seed, some hundred at a time."""
    weights, squares = np.zeros(1 << bits, np.float32), np.full(1 << bits, 1e-8, np.float32)
    bias, bias_square = 0.0, 1e-8
    share = float(labels.mean())
    importance = np.where(labels > 0, 0.5 / share, 0.5 / (1 - share)).astype(np.float32)
    random = np.random.default_rng(seed)
    for _ in range(epochs):
        order = random.permutation(len(rows))
        for batch in np.array_split(order, max(1, len(rows) // _BATCH)):
            sizes = [len(rows[row][0]) for row in batch]
            bucket = np.concatenate([rows[row][0] for row in batch])
            value = np.concatenate([rows[row][1] for row in batch])
            owner = np.repeat(np.arange(len(batch)), sizes)
            logits = np.bincount(owner, weights[bucket] * value, minlength=len(batch)) + bias
            error = (sigmoid(logits) - labels[batch]) * importance[batch] / len(batch)
            touched, inverse = np.unique(bucket, return_inverse=True)
            gradient = np.bincount(inverse, value * error[owner]).astype(np.float32)
            squares[touched] += gradient**2
            weights[touched] -= rate * gradient / np.sqrt(squares[touched])
            bias_square += float(error.sum()) ** 2
            bias -= rate * float(error.sum()) / bias_square**0.5
    return Weights(weights, bias)


_BATCH = 128


def sigmoid(logits: ArrayLike) -> NDArray[np.float64]:
    """1 / (1 + exp(-x)), without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * np.asarray(logits, np.float64)))
