"""Where the first value that is not finite comes from: asked once, when a step has gone wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from modelwright.base.schema import Json
from modelwright.base.seams import Objective
from modelwright.training.spread import Share, Spread

Finding = list[Json]
"""[place in the order of cause and effect, in words]; empty where every value is finite."""


class Cause(NamedTuple):
    """Where a value that is not finite came from."""

    said: str
    """One line."""
    in_weights: bool = False
    """Whether the weights themselves are broken: no other batch makes that good."""


@torch.no_grad()
def first_nonfinite(spread: Spread, objective: Objective, shares: Sequence[Share]) -> Cause:
    """The place that comes first in the order of cause and effect: a weight, the output of a module in the
    forward pass, the loss, a gradient. Runs the forward passes again, eagerly. Every process calls it with
    its own part of the batch, whose gradients it still has, and all get the same."""
    if broken := broken_weights(spread):
        return Cause(broken, in_weights=True)
    said = _first(spread, _passes(spread, objective, shares)) or _first(spread, _gradients(spread))
    return Cause(
        said or "run again, every value is finite: the fault did not repeat (a faulty memory, a race?)"
    )


def broken_weights(spread: Spread) -> str:
    """One line that names the first weight that is not finite, on whichever process; "" where all are."""
    return _first(spread, _weights(spread))


def _first(spread: Spread, mine: Finding) -> str:
    """What comes first of all that the processes have found."""
    found = [each for each in spread.world.gather(mine) if isinstance(each, list) and each]
    return str(min(found)[1]) if found else ""


def _weights(spread: Spread) -> Finding:
    """The first weight; scales of frozen ones in few bits are no parameters."""
    for place, (name, tensor) in enumerate((*spread.pieces().items(), *spread.module.named_buffers())):
        if not _finite(tensor):
            return [place, f"the weights {name} hold values that are not finite"]
    return []


def _passes(spread: Spread, objective: Objective, shares: Sequence[Share]) -> Finding:
    """The first module of the forward passes, or the loss. All passes are made, whatever is found in them:
    where a process stopped, the others would wait for it."""
    first: Finding = []
    with torch.compiler.set_stance("force_eager"), _watched(spread.module) as found:
        for number, share in enumerate(shares):
            loss, _ = objective(spread.on_batch(share.seen), share.batch)
            at = f"micro-batch {number}"
            if not first and found:
                first = [number, f"the first value that is not finite came out of {found[0]} ({at})"]
            elif not first and not _finite(loss):
                first = [number, f"every module's output is finite, the loss of {at} is not"]
    spread.settle()
    return first


def _gradients(spread: Spread) -> Finding:
    """The one that comes first in the backward pass."""
    said = "losses are finite, gradients are not; the first in the backward pass is that of"
    for place, (name, piece) in enumerate(reversed([*spread.pieces().items()])):
        if piece.grad is not None and not _finite(piece.grad):
            return [place, f"{said} {name}"]
    return []


@contextmanager
def _watched(model: nn.Module) -> Iterator[list[str]]:
    """Collects the names of modules whose output is not finite, in the order of the forward pass."""
    found: list[str] = []

    def watch(name: str, watched: nn.Module) -> None:
        def hook(_: nn.Module, inputs: object, output: object) -> None:
            tensors = output if isinstance(output, tuple) else (output,)
            if any(isinstance(each, Tensor) and not _finite(each) for each in tensors):
                found.append(f"{name} ({type(watched).__name__})")

        handles.append(watched.register_forward_hook(hook))

    handles: list[torch.utils.hooks.RemovableHandle] = []
    for name, module in model.named_modules():
        if name:
            watch(name, module)
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())
