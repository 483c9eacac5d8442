"""Decoding on a GPU without launching each kernel anew: steps recorded as CUDA graphs.

A decoding step of a small model is hundreds of kernels of microseconds each, and launching them from Python
takes longer than they run. A CUDA graph launches what was recorded with one call, on the memory it was
recorded with. So a step's inputs are written to the same tensors each time, and a graph is recorded for each
padded size, a number of sequences and a number of blocks, when it is first needed (as in nano-vllm, which
records all before it starts and lets the kernel of attention see to the blocks). Padding rows read and write
the block that nobody owns. Prompts, mixtures of experts (whose shapes depend on the router) and rows with
adapters go the plain way, with what `PlainRunner` does.

The recording itself is a seam, `Record`: it takes a call and returns one that repeats it. On CUDA that is
`CudaGraphs`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modelwright.inference.blocks import SIZE, blocks_for
from modelwright.inference.runner import CacheDtype, Piece, PlainRunner
from modelwright.model.adapters import AdapterSet
from modelwright.model.transformer import Transformer

LOG = logging.getLogger("modelwright.inference")

Record = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]
"""A call -> one that does the same work again, on the same tensors, and returns the same tensor."""
WARM_UP = 2
"""Calls before a recording: libraries choose their kernels and take their memory in the first ones."""
SMALL = (1, 2, 4, 8)
STEP = 16
"""Padded numbers of sequences: the small ones, and then the multiples of this."""
MOST_STEPS = 64
"""How many recordings are kept; each holds some MB of the GPU's memory."""


class CudaGraphs:
    """Records on the current GPU. Only one recording runs at a time, so all share their scratch memory."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, call: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """A `Record`."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            output = call()

        def replay() -> Tensor:
            graph.replay()
            return output

        return replay


def serves(model: Transformer) -> bool:
    """Whether decoding this model can be recorded: on CUDA, and with shapes that no token decides."""
    return model.head.device.type == "cuda" and not model.config.mixture_layers


def padded_rows(rows: int) -> int:
    """How many sequences a recording for `rows` of them has."""
    return next((size for size in SMALL if rows <= size), -(-rows // STEP) * STEP)


def padded_blocks(blocks: int) -> int:
    """How many blocks of each: the next power of two."""
    return 1 << (blocks - 1).bit_length()


class GraphRunner(PlainRunner):
    """The model as it is, its decoding steps recorded."""

    def __init__(
        self,
        model: Transformer,
        blocks: int,
        cache: CacheDtype = "auto",
        adapters: AdapterSet | None = None,
        record: Record | None = None,
    ) -> None:
        super().__init__(model, blocks, cache, adapters)
        self._record = record or CudaGraphs()
        self._steps: dict[tuple[int, int], _Step] = {}
        """By padded size, the longest unused first."""

    def clear(self) -> None:
        """Empty the cache where it lies: recordings know no other place."""
        self._cache.clear_in_place()

    def _together(self, pieces: Sequence[Piece]) -> list[Tensor]:
        """As `PlainRunner` does, in a recorded step where every piece is one token."""
        if any(len(piece.ids) > 1 or piece.adapter is not None for piece in pieces):
            return super()._together(pieces)
        size = padded_rows(len(pieces)), padded_blocks(max(blocks_for(piece.end) for piece in pieces))
        step = self._steps.pop(size, None)
        if step is None:
            if len(self._steps) == MOST_STEPS:
                self._steps.pop(next(iter(self._steps)))
            LOG.debug("recording a decoding step of %d sequences with %d blocks each", *size)
            step = self._recorded(*size)
        self._steps[size] = step
        return list(step(pieces))

    def _recorded(self, rows: int, blocks: int) -> _Step:
        padding = [0, 0, *[self._waste] * blocks]
        inputs = torch.tensor([padding] * rows, device=self.device)
        ids, positions, tables = inputs.split([1, 1, blocks], dim=1)

        def decode() -> Tensor:
            last = tables.gather(1, positions // SIZE)
            return self._pass(ids, positions, tables, last, blocks * SIZE)

        return _Step(inputs, padding, self._record(decode))


@dataclass(frozen=True, slots=True)
class _Step:
    """A recorded step of one padded size."""

    inputs: Tensor
    """(rows, 2 + blocks): a token, its position, and its sequence's blocks."""
    padding: list[int]
    """A row that stands for nobody."""
    replay: Callable[[], Tensor]

    def __call__(self, pieces: Sequence[Piece]) -> Tensor:
        """(pieces, 1, D), which the next call overwrites."""
        blocks = len(self.padding) - 2
        rows = [[*piece.ids, piece.start, *piece.blocks[:blocks]] for piece in pieces]
        filled = [[*row, *self.padding[len(row) :]] for row in rows]
        filled += [self.padding] * (len(self.inputs) - len(rows))
        self.inputs.copy_(torch.tensor(filled))
        return self.replay()[: len(pieces)]
