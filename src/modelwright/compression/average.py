"""Averaging weights: points along one training run average to a better point (arXiv 1803.05407)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from modelwright.base.errors import UserError


@torch.no_grad()
def uniform(states: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of state dicts with the same names and shapes, in the first one's dtypes.

    They are taken one at a time, so `states` may load each checkpoint as it is asked for: memory holds
    two. The sum is in fp64, where neither the order nor the number of states shows in an fp32 result.
    Tensors that are not floating point (counters, masks) cannot be averaged and must be equal.
    """
    total: dict[str, Tensor] = {}
    first: dict[str, Tensor] = {}
    count = 0
    for state in states:
        count += 1
        if count == 1:
            first = dict(state)
            total = {name: tensor.double().clone() for name, tensor in state.items()}
            continue
        _check(first, state, count)
        for name, tensor in state.items():
            total[name] += tensor.double()
    if not count:
        raise UserError("there is nothing to average: expected at least one set of weights, received none.")
    return {
        name: (total[name] / count).to(tensor.dtype) if tensor.is_floating_point() else tensor.clone()
        for name, tensor in first.items()
    }


@torch.no_grad()
def weighted(states: Iterable[Mapping[str, Tensor]], weights: Sequence[float]) -> dict[str, Tensor]:
    """The sum of states, each times its weight, taken one at a time and added in fp64."""
    total: dict[str, Tensor] = {}
    for state, weight in zip(states, weights, strict=True):
        for name, tensor in state.items():
            part = tensor.double() * weight
            total[name] = total[name] + part if name in total else part
    return {name: tensor.float() for name, tensor in total.items()}


@torch.no_grad()
def greedy_soup(
    ingredients: Sequence[str],
    load: Callable[[str], Mapping[str, Tensor]],
    score: Callable[[Mapping[str, Tensor]], float],
) -> tuple[list[str], dict[str, Tensor]]:
    """Which ingredients, given the best first, and their mean: each is stirred in if the mean then scores no
    worse (arXiv 2203.05482, algorithm 1). `score` is lower for better."""
    chosen, soup = [ingredients[0]], dict(load(ingredients[0]))
    best = score(soup)
    for name in ingredients[1:]:
        state = load(name)
        _check(soup, state, len(chosen) + 1)
        tried = weighted((soup, state), (len(chosen) / (len(chosen) + 1), 1 / (len(chosen) + 1)))
        found = score(tried)
        if found <= best:
            chosen, soup, best = [*chosen, name], tried, found
    return chosen, soup


def _check(first: Mapping[str, Tensor], other: Mapping[str, Tensor], number: int) -> None:
    """Refuse weights of another model; averaging them would give a number without a meaning."""
    for name in sorted({*first, *other}):
        if name not in first or name not in other:
            raise UserError(
                f"weights number {number} differ from the first in '{name}', which only one of them has:"
                " only checkpoints of one architecture can be averaged."
            )
        a, b = first[name], other[name]
        if a.shape != b.shape:
            raise UserError(
                f"'{name}' has shape {tuple(a.shape)} in the first and {tuple(b.shape)} in weights number"
                f" {number}: only checkpoints of one architecture can be averaged."
            )
        if not a.is_floating_point() and not torch.equal(a, b):
            raise UserError(
                f"'{name}' holds {a.dtype}, which has no average, and differs between the inputs."
            )
