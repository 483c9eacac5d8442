"""The model at work on the cache: tensors, and no policy.

A prompt read at once or in pieces, decoding, and texts that are only scored are one call: some tokens at some
positions of some sequences, each of which may look at every earlier position of its own. `PlainRunner` does
it with the model as it is, anywhere; `CompiledRunner` (inference/compiled.py) in one call of compiled code
on a CPU; `GraphRunner` (inference/graphs.py) on a GPU with steps that were recorded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from modelwright.inference.blocks import SIZE, blocks_for
from modelwright.inference.cache import CacheView, PagedCache
from modelwright.model.adapters import AdapterSet
from modelwright.model.transformer import ModelOutput, Transformer

CacheDtype = str
"""What keys and values are stored in: "auto" (what the model computes in) or "int8"."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens of one sequence: `ids` at the positions from `start` on, with the blocks of all up to their
    end."""

    ids: Sequence[int]
    start: int
    blocks: Sequence[int]
    outputs: int
    """How many of them, counted from the end, somebody wants to know the logits of."""
    adapter: str | None = None

    @property
    def end(self) -> int:
        """The position behind the last."""
        return self.start + len(self.ids)


class Runner(Protocol):
    """A model with its cache."""

    device: torch.device

    def logits(self, pieces: Sequence[Piece]) -> Tensor:
        """(outputs of all pieces, V) fp32, in their order. Writes the cache."""
        ...

    def hidden(self, pieces: Sequence[Piece]) -> Tensor:
        """(tokens of all pieces, D) fp32 after the last norm. Writes the cache."""
        ...

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take new weights, and empty the cache: what it holds is of the old ones."""
        ...

    def adapters_changed(self) -> None:
        """There are other adapters now."""
        ...

    def clear(self) -> None:
        """Empty the cache, whatever is in it (a number that is none would stay in a block for ever)."""
        ...


class PlainRunner:
    """The model as it is. Pieces of one token are one batch, longer ones another, padded to the longest."""

    def __init__(
        self,
        model: Transformer,
        blocks: int,
        cache: CacheDtype = "auto",
        adapters: AdapterSet | None = None,
    ) -> None:
        self.model = model.eval()
        self._adapters = adapters or AdapterSet(model)
        config = model.config
        self.device = model.head.device
        self._cache = PagedCache(
            config.num_hidden_layers,
            blocks + 1,
            config.num_key_value_heads,
            config.head_dim,
            model.compute_dtype,
            self.device,
            eight_bits=cache == "int8",
        )
        self._waste = blocks
        """Where padding is written."""

    @torch.inference_mode()
    def logits(self, pieces: Sequence[Piece]) -> Tensor:
        """(outputs of all pieces, V) fp32."""
        rows = zip(self._hidden(pieces), pieces, strict=True)
        wanted = torch.cat([hidden[len(hidden) - piece.outputs :] for hidden, piece in rows])
        return ModelOutput(hidden=wanted[None], head=self.model.head).logits()[0]

    @torch.inference_mode()
    def hidden(self, pieces: Sequence[Piece]) -> Tensor:
        """(tokens of all pieces, D) fp32."""
        return torch.cat(self._hidden(pieces)).float()

    def _hidden(self, pieces: Sequence[Piece]) -> list[Tensor]:
        """For each piece (tokens, D)."""
        found: dict[int, Tensor] = {}
        for single in (True, False):
            numbers = [n for n, piece in enumerate(pieces) if (len(piece.ids) == 1) == single]
            if numbers:
                found.update(zip(numbers, self._together([pieces[n] for n in numbers]), strict=True))
        return [found[number] for number in range(len(pieces))]

    def _together(self, pieces: Sequence[Piece]) -> list[Tensor]:
        used = max(piece.end for piece in pieces)
        ids = _padded([piece.ids for piece in pieces], 0, self.device)
        tables = _padded([piece.blocks[: blocks_for(used)] for piece in pieces], self._waste, self.device)
        starts = torch.tensor([piece.start for piece in pieces], device=self.device)[:, None]
        ends = torch.tensor([piece.end for piece in pieces], device=self.device)[:, None]
        positions = starts + torch.arange(ids.shape[1], device=self.device)
        real = positions < ends
        places = positions.clamp(max=tables.shape[1] * SIZE - 1)
        blocks = torch.where(real, tables.gather(1, places // SIZE), self._waste)
        with self._adapters.rows([piece.adapter for piece in pieces]):
            hidden = self._pass(ids, positions, tables, blocks, used)
        return [rows[: len(piece.ids)] for rows, piece in zip(hidden, pieces, strict=True)]

    def _pass(self, ids: Tensor, positions: Tensor, tables: Tensor, blocks: Tensor, used: int) -> Tensor:
        """(B, T, D) of (B, T) ids at these positions of sequences with (B, n) blocks, of whose positions
        `used` are looked at; keys and values go to (B, T) blocks."""
        view = CacheView(self._cache, tables, blocks, positions % SIZE, used)
        places = torch.arange(used, device=self.device)
        visible = places <= positions[:, None, :, None]
        if window := self.model.config.sliding_window:
            visible &= places > positions[:, None, :, None] - window
        return self.model(ids, positions=positions, mask=visible, cache=view).hidden

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Copy new weights in place."""
        self.model.load_state_dict(dict(state))
        self.clear()

    def adapters_changed(self) -> None:
        """Nothing to do: every pass looks for its adapters anew."""

    def clear(self) -> None:
        """Empty the cache."""
        self._cache.clear()


def _padded(rows: Sequence[Sequence[int]], value: int, device: torch.device) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows], device=device)
