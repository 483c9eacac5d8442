"""Which part of each parameter lies in which process.

Optimizers and averages that treat every number alike work on a process's own piece and need to know
nothing. What needs a whole, the norm of the gradient, a matrix to orthogonalise, a weight to be saved, asks
a Layout. `Layout` is one process, where every piece is the whole; `ShardedLayout` is several.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
import torch.distributed as dist
from torch import Tensor

Shape = tuple[int, ...]
PART = 1 << 22
"""Numbers of a gradient that are squared in fp64 at a time: a copy of a whole embedding is gigabytes."""
OnStack = Callable[[Tensor], Tensor]
"""(K, M, N) matrices -> as many of the same size, each from its own alone."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A box out of a tensor: where it begins, and its size, along each axis."""

    offset: Shape
    shape: Shape

    @property
    def numel(self) -> int:
        """Numbers in it."""
        return prod(self.shape)

    @property
    def slices(self) -> tuple[slice, ...]:
        """The box as an index into the whole tensor."""
        return tuple(slice(o, o + n) for o, n in zip(self.offset, self.shape, strict=True))


def whole_piece(shape: Sequence[int]) -> Piece:
    """The box that is all of a tensor."""
    return Piece((0,) * len(shape), tuple(shape))


class Layout:
    """One process: every piece is the whole."""

    def shape(self, name: str, piece: Tensor) -> Shape:
        """Of the whole parameter of which `piece` lies here."""
        return tuple(piece.shape)

    def norm(self, pieces: Mapping[str, Tensor]) -> Tensor:
        """Euclidean norm of all parameters' tensors together, the same on every process."""
        return torch.nn.utils.get_total_norm(pieces.values())

    def on_whole(self, names: Sequence[str], pieces: Sequence[Tensor], function: OnStack) -> list[Tensor]:
        """Pieces of what `function` makes of the whole matrices; all have one shape."""
        return list(function(torch.stack(list(pieces))).unbind())

    def mean_squares(self, names: Sequence[str], pieces: Sequence[Tensor], axis: int) -> Tensor:
        """(K, ...) mean squares of the whole matrices, which have one shape, over one axis: in fp32, the same
        on every process."""
        return torch.stack([piece.float().square().mean(axis) for piece in pieces])

    def beside(self, name: str, values: Tensor, axis: int) -> Tensor:
        """Of one value for each line along `axis` of a whole parameter, those of the lines that this
        process's piece has parts of."""
        return values

    def whole(self, name: str, piece: Tensor) -> Tensor:
        """The whole tensor behind a piece."""
        return piece


class ShardedLayout(Layout):
    """Several processes that hold the parameters together. Every method is called by all of them."""

    def __init__(
        self,
        shapes: Mapping[str, Shape],
        pieces: Sequence[Mapping[str, Piece]],
        group: dist.ProcessGroup,
        rank: int,
    ) -> None:
        """`pieces[r][name]` lies in process r of `group`; this is process `rank` of it."""
        self.shapes, self.pieces, self.group, self.rank = dict(shapes), list(pieces), group, rank
        self._copies = {
            name: sum(held[name].numel for held in pieces) / prod(shape) for name, shape in shapes.items()
        }

    def shape(self, name: str, piece: Tensor) -> Shape:
        return self.shapes[name]

    def is_keeper(self, name: str) -> bool:
        """Whether this process is the first that holds its piece: one of them saves it."""
        mine = self.pieces[self.rank][name]
        return mine.numel > 0 and mine not in (held[name] for held in self.pieces[: self.rank])

    def norm(self, pieces: Mapping[str, Tensor]) -> Tensor:
        """Squares are added in fp64 and in the order of processes, so that all of them get the same bits."""
        device = next(iter(pieces.values())).device
        squares = torch.zeros((), dtype=torch.float64, device=device)
        for name, piece in pieces.items():
            for part in piece.reshape(-1).split(PART):
                squares += torch.linalg.vector_norm(part, dtype=torch.float64).square() / self._copies[name]
        return in_order(squares, self.group).sum(0).sqrt().float()

    def on_whole(self, names: Sequence[str], pieces: Sequence[Tensor], function: OnStack) -> list[Tensor]:
        """Matrix k goes to process k mod n, which applies the function and sends the pieces back: each matrix
        is treated once, and each process sends and receives about what it holds (the distributed Muon of
        modded-nanogpt, with an exchange in place of a reduction)."""
        owned = [list(range(rank, len(names), len(self.pieces))) for rank in range(len(self.pieces))]
        mine = owned[self.rank]
        rows = self._sizes(names, [self.rank] * len(owned), owned)
        columns = self._sizes(names, range(len(owned)), [mine] * len(owned))
        outgoing = [pieces[k].reshape(-1) for ks in owned for k in ks]
        received = self._exchange(torch.cat(outgoing), rows, columns)
        stack = pieces[0].new_empty((len(mine), *self.shapes[names[0]]))
        for place, part in self._each(received, names, mine):
            stack[place] = part
        made = function(stack) if mine else stack
        back = [made[place].reshape(-1) for place in self._places(names, mine)]
        returned = self._exchange(torch.cat(back) if back else received, columns, rows)
        order = [k for ks in owned for k in ks]
        parts = returned.split([pieces[k].numel() for k in order])
        found = {k: part.view(pieces[k].shape) for k, part in zip(order, parts, strict=True)}
        return [found[k] for k in range(len(names))]

    def mean_squares(self, names: Sequence[str], pieces: Sequence[Tensor], axis: int) -> Tensor:
        """Each process adds what its pieces know of each line; a vector for a matrix is all that travels."""
        shape = list(self.shapes[names[0]])
        length = shape.pop(axis)
        found = torch.zeros((len(names), *shape), device=pieces[0].device)
        for name, piece, row in zip(names, pieces, found, strict=True):
            squares = piece.float().square().sum(axis) / (length * self._copies[name])
            self.beside(name, row, axis).copy_(squares)
        dist.all_reduce(found, group=self.group)
        return found

    def beside(self, name: str, values: Tensor, axis: int) -> Tensor:
        slices = list(self.pieces[self.rank][name].slices)
        del slices[axis]
        return values[tuple(slices)]

    def whole(self, name: str, piece: Tensor) -> Tensor:
        """The whole tensor, on every process."""
        held = [pieces[name] for pieces in self.pieces]
        longest = max(each.numel for each in held)
        padded = piece.new_zeros(longest)
        padded[: piece.numel()] = piece.reshape(-1)
        full = piece.new_empty(self.shapes[name])
        for each, row in zip(held, in_order(padded, self.group), strict=True):
            full[each.slices] = row[: each.numel].view(each.shape)
        return full

    def _sizes(self, names: Sequence[str], ranks: Sequence[int], wanted: Sequence[list[int]]) -> list[int]:
        """How many numbers the pieces of the wanted matrices hold, rank by rank."""
        pairs = zip(ranks, wanted, strict=True)
        return [sum(self.pieces[rank][names[k]].numel for k in ks) for rank, ks in pairs]

    def _places(self, names: Sequence[str], mine: list[int]) -> list[tuple[int | slice, ...]]:
        """Where in the stack of this process's matrices each piece lies: by process, then by matrix."""
        return [(number, *held[names[k]].slices) for held in self.pieces for number, k in enumerate(mine)]

    def _each(
        self, flat: Tensor, names: Sequence[str], mine: list[int]
    ) -> list[tuple[tuple[int | slice, ...], Tensor]]:
        boxes = [held[names[k]] for held in self.pieces for k in mine]
        parts = flat.split([box.numel for box in boxes])
        shaped = [part.view(box.shape) for part, box in zip(parts, boxes, strict=True)]
        return list(zip(self._places(names, mine), shaped, strict=True))

    def _exchange(self, flat: Tensor, outgoing: list[int], incoming: list[int]) -> Tensor:
        received = flat.new_empty(sum(incoming))
        dist.all_to_all_single(received, flat, incoming, outgoing, group=self.group)
        return received


def in_order(tensor: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """(processes, *shape) every process's tensor, in the order of ranks."""
    everyone = [torch.empty_like(tensor) for _ in range(dist.get_world_size(group))]
    dist.all_gather(everyone, tensor, group=group)
    return torch.stack(everyone)
