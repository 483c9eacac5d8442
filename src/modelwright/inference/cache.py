"""The key-value cache of the plain path: blocks of 32 positions for every layer, as tensors.

Each forward pass gathers the blocks of its sequences into rows, which copies them: plain, on any device, and
what the compiled step (kernels/decoder.cpp), which reads blocks where they lie, is tested against.
"""

from __future__ import annotations

import math
import mmap

import torch
from torch import Tensor

from modelwright.base.errors import UserError
from modelwright.inference.blocks import SIZE, blocks_for
from modelwright.model.config import ModelConfig
from modelwright.model.transformer import Transformer

DEFAULT_BYTES = 2 << 30
"""How large the cache may be where nobody says."""


def unwritten_zeros(*shape: int, dtype: torch.dtype) -> Tensor:
    """Zeros in main memory that take no room before they are written, and leave none taken: mapped apart,
    they go back to the system whole. `torch.zeros` writes all of them at once, and what malloc keeps is not
    always found again: three caches, one after the other, took the room of three (measured)."""
    size = math.prod(shape) * dtype.itemsize
    room = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(room, dtype=dtype).view(shape)


class PagedCache:
    """Keys and values: two tensors (layers, blocks, kv heads, 32, head_dim).

    In int8, each head of each position has a scale of its own: value = level x scale, with the largest
    magnitude at level 127, so that nothing is off by more than half a scale. What is not finite has a scale
    that is not, since no level can say it.
    """

    def __init__(
        self,
        layers: int,
        blocks: int,
        kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        eight_bits: bool = False,
    ) -> None:
        self._shape, self._head_dim = (layers, blocks, kv_heads, SIZE), head_dim
        self._stored = torch.int8 if eight_bits else dtype
        self._device = device
        self._allocate()

    def write(self, layer: int, blocks: Tensor, offsets: Tensor, k: Tensor, v: Tensor) -> None:
        """Store k and v (B, kv heads, T, head_dim) at the (B, T) offsets of (B, T) blocks."""
        for which, (pool, fresh) in enumerate(((self.keys, k), (self.values, v))):
            rows = fresh.transpose(1, 2)  # two index tensors around a slice put the indexed dimensions first
            if self.scales is not None:
                wide = rows.float()
                scale = wide.abs().amax(-1, keepdim=True) / 127
                scale = torch.where(scale == 0, 1.0, scale)
                self.scales[which][layer][blocks, :, offsets] = scale
                rows = (wide / scale).nan_to_num(0.0).round()
            pool[layer][blocks, :, offsets] = rows.to(pool.dtype)

    def read(self, layer: int, tables: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Keys and values (B, kv heads, n x 32, head_dim) of the (B, n) blocks of B sequences."""
        found: list[Tensor] = []
        for which, pool in enumerate((self.keys, self.values)):
            rows = pool[layer][tables].to(dtype)
            if self.scales is not None:
                rows = rows * self.scales[which][layer][tables].to(dtype)
            found.append(rows.transpose(1, 2).flatten(2, 3))
        return found[0], found[1]

    def clear(self) -> None:
        """Zeros everywhere, not garbage: masked positions still take part in sums as 0 x value, and 0 x NaN
        is NaN. On a CPU in fresh memory, which takes no room before it is written; the old is let go of
        first, as there may not be room for both."""
        if self._device.type == "cpu":
            self._allocate()
        else:
            self.clear_in_place()

    def clear_in_place(self) -> None:
        """The same in the memory that there is, for those who hold on to where it lies."""
        for pool in (self.keys, self.values):
            pool.zero_()
        for scales in self.scales or ():
            scales.fill_(1)

    def _allocate(self) -> None:
        shape, device = (*self._shape, self._head_dim), self._device
        self.keys = self.values = torch.empty(0)
        self.scales: list[Tensor] | None = None
        if device.type == "cpu":
            self.keys, self.values = (unwritten_zeros(*shape, dtype=self._stored) for _ in range(2))
        else:
            self.keys, self.values = (torch.zeros(shape, dtype=self._stored, device=device) for _ in range(2))
        if self._stored == torch.int8:
            self.scales = [torch.ones(*self._shape, 1, device=device) for _ in range(2)]


class CacheView:
    """The cache as one forward pass of B sequences sees it. The model calls `update` once per layer
    (model.attention.KeyValueCache)."""

    def __init__(self, cache: PagedCache, tables: Tensor, blocks: Tensor, offsets: Tensor, used: int) -> None:
        self._cache, self._tables = cache, tables
        self._blocks, self._offsets, self._used = blocks, offsets, used

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store k and v (B, kv heads, T, head_dim); return all that may be attended to."""
        self._cache.write(layer, self._blocks, self._offsets, k, v)
        keys, values = self._cache.read(layer, self._tables, k.dtype)
        return keys[:, :, : self._used], values[:, :, : self._used]


def blocks_of_cache(
    model: Transformer,
    cache: str,
    cache_tokens: int | None,
    max_slots: int,
    max_length: int,
    usual_length: int | None = None,
) -> int:
    """How many blocks the cache has: as asked, or enough for all slots within a bound; always enough for
    one. `usual_length`: what most requests stay below."""
    least = blocks_for(max_length)
    if cache_tokens is not None:
        if cache_tokens < least * SIZE:
            raise UserError(
                f"cache_tokens is {cache_tokens}; one sequence may need {max_length} positions, so at least "
                f"{least * SIZE} are expected (or a smaller max_length)"
            )
        return cache_tokens // SIZE
    element = 1 if cache == "int8" else model.compute_dtype.itemsize
    bound = DEFAULT_BYTES // (_numbers_of_position(model.config) * SIZE * element)
    # Who is admitted leaves a block for each that runs (scheduler.py), so that nobody has to wait for one.
    slot = least if usual_length is None else min(least, blocks_for(usual_length) + 1)
    return max(least, min(max_slots * slot, bound))


def _numbers_of_position(config: ModelConfig) -> int:
    """Keys and values of one position in all layers."""
    return 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
