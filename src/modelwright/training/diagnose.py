"""Where the first value that is not finite comes from: asked once, when a step has gone wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from modelwright.base.schema import Batch
from modelwright.base.seams import Objective


@torch.no_grad()
def first_nonfinite(model: nn.Module, objective: Objective, micro: list[Batch]) -> str:
    """One line that names the place, in the order of cause and effect: a weight, the output of a module in
    the forward pass, the loss, a gradient. Runs the forward passes again, eagerly."""
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            return f"the weights {name} hold values that are not finite"
    with torch.compiler.set_stance("force_eager"), _watched(model) as found:
        for number, batch in enumerate(micro):
            loss, _ = objective(model.on_batch(batch), batch)  # type: ignore[operator]
            if found:
                return f"the first value that is not finite came out of {found[0]} (micro-batch {number})"
            if not loss.isfinite():
                return f"every module's output is finite, the loss of micro-batch {number} is not"
    broken = [name for name, p in model.named_parameters() if p.grad is not None and not _finite(p.grad)]
    if broken:
        return f"losses are finite, gradients are not; the first in the backward pass is that of {broken[-1]}"
    return "run again, every value is finite: the fault did not repeat (a faulty memory, a race?)"


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
