"""A module and the processes that train it together, as the loop sees them.

`Spread` is one process that has it all, and the base of `parallel.Sharded`, which is several. The loop asks
for the same things in both cases: parameters to update, a share of each batch, sums over all processes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from modelwright.base.schema import IGNORE, Batch
from modelwright.base.seams import Adapting, Output, Preparing
from modelwright.base.world import World
from modelwright.training.batches import Batches
from modelwright.training.checkpoint import Checkpoints
from modelwright.training.layout import Layout


@dataclass(frozen=True, slots=True)
class Share:
    """A part of a step's batch for one process."""

    batch: Batch
    counts: bool = True
    """False where nothing was left: the process runs on rows of another one, so that it takes part in all
    exchanges, and what comes out of it is multiplied by zero."""

    @property
    def seen(self) -> Batch:
        """What the model is given. One that counts its tokens, as a mixture of experts does, counts those
        with a target: where the part does not count, there are none."""
        if self.counts:
            return self.batch
        return dataclasses.replace(self.batch, targets=torch.full_like(self.batch.targets, IGNORE))

    def counted(self, value: Tensor) -> Tensor:
        """A sum over the part's units in fp64; 0 where it does not count."""
        return value.double() if self.counts else value.new_zeros((), dtype=torch.float64)

    def to(self, device: torch.device) -> Share:
        """The same part on a device."""
        return Share(self.batch.to(device), self.counts)

    def pinned(self) -> Share:
        """The same part in memory that a GPU reads by itself."""
        return Share(self.batch.pinned(), self.counts)


def deal(batches: Batches, indices: range, place: int, of: int) -> list[Share]:
    """What process `place` among `of` takes of a step: whole micro-batches where that comes out even, else
    units of rows of each. All shares together hold each row of the step once, whatever their number."""
    if len(indices) % of == 0:
        return [Share(batches[index]) for index in indices[place::of]]
    shares: list[Share] = []
    for index in indices:
        batch = batches[index]
        first, last = batch.units * place // of, batch.units * (place + 1) // of
        shares.append(Share(batch.part(first, last)) if first < last else Share(batch.part(0, 1), False))
    return shares


class Spread:
    """One process: the module is whole, and so is every batch."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.world = World()
        self.layout = Layout()

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return next(self.module.parameters()).device

    def parameters(self) -> Mapping[str, nn.Parameter]:
        """What the optimizer updates: this process's piece of each parameter that learns. Frozen ones are no
        part of a checkpoint either: they are those that training began with."""
        return {name: piece for name, piece in self.pieces().items() if piece.requires_grad}

    def pieces(self) -> Mapping[str, nn.Parameter]:
        """This process's piece of every parameter."""
        return dict(self.module.named_parameters())

    @torch.no_grad()
    def fill(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Set parameters to whole tensors, one after the other."""
        parameters = self.pieces()
        for name, weight in weights:
            parameters[name].copy_(weight)

    @torch.no_grad()
    def load(self, pieces: Mapping[str, Tensor]) -> None:
        """Set the parameters that learn to what a checkpoint has for this process; names have to be the
        same."""
        parameters = self.parameters()
        if pieces.keys() != parameters.keys():
            different = sorted(pieces.keys() ^ parameters.keys())
            raise ValueError(f"the weights are of another module: {different[:4]} are in one of the two only")
        for name, piece in pieces.items():
            parameters[name].copy_(piece)

    def before_step(self, step: int) -> None:
        """Let a model that does something once for all micro-batches of step `step` do it."""
        if isinstance(self.module, Preparing):
            self.module.before_step(step)

    def on_batch(self, batch: Batch) -> Output:
        """Run the module on a micro-batch."""
        return self.module.on_batch(batch)  # type: ignore[operator,no-any-return]

    def checkpoints(self, folder: Path, keep: int, background: bool) -> Checkpoints:
        """The checkpoints of this training, below the folder of its run."""
        return Checkpoints(folder / "checkpoints", keep, background=background)

    def deal(self, batches: Batches, indices: range) -> list[Share]:
        """This process's part of a step, on the host."""
        return deal(batches, indices, *self.place)

    place = (0, 1)
    """Which process this is, and how many there are, among those that read different rows."""

    @property
    def readers(self) -> int:
        """Processes that read different rows."""
        return self.place[1]

    def before_backward(self, last: bool) -> None:
        """Before each backward pass of a step; `last`: no other one follows."""

    def collect(self) -> None:
        """After the last backward pass of a step: gradients are complete from here on."""

    def add_up(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all processes that read different rows, the same bits on each."""
        return tensor

    def totals(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Each value added up over all processes that read different rows."""
        return dict(sums)

    def after_step(self, progress: float) -> dict[str, float]:
        """Let a model that follows its training (a mixture of experts) have its turn; its metrics."""
        return self.module.after_step(progress, self.add_up) if isinstance(self.module, Adapting) else {}

    def training_state(self) -> dict[str, list[float]]:
        """What such a model depends on besides its parameters, for a checkpoint."""
        if not isinstance(self.module, Adapting):
            return {}
        return {name: tensor.tolist() for name, tensor in self.module.training_state().items()}

    def load_training_state(self, state: Mapping[str, list[float]]) -> None:
        """Take over what `training_state` returned. JSON keeps the bits of a double."""
        if isinstance(self.module, Adapting) and state:
            tensors = {name: torch.tensor(values, dtype=torch.float64) for name, values in state.items()}
            self.module.load_training_state(tensors)

    def settle(self) -> None:
        """After a forward pass without a backward pass: give up what was gathered for it."""

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every whole weight under its name, one after the other. All processes have to go through it."""
        for name, piece in self.pieces().items():
            yield name, self.layout.whole(name, piece.detach())
