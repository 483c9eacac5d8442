"""The key-value cache: one row per running sequence, grown in steps.

Rows are static slots, as long as the longest sequence needs so far. Attention reads only the used
part, as a view: nothing is copied to decode.
"""

from __future__ import annotations

import torch
from torch import Tensor

STEP = 64
"""Lengths grow to multiples of this at the least, and to double what there was."""


class SlotCache:
    """Keys and values of all layers: two tensors (layers, slots, kv heads, length, head_dim)."""

    def __init__(self, layers: int, slots: int, kv_heads: int, head_dim: int, max_length: int) -> None:
        self._shape = (layers, slots, kv_heads, head_dim)
        self._max_length = max_length
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    @property
    def length(self) -> int:
        """Positions there is room for in each row."""
        return 0 if self.keys is None else self.keys.shape[3]

    def reserve(self, length: int, dtype: torch.dtype, device: torch.device) -> None:
        """Make room for `length` positions in every row, keeping what is there."""
        if length <= self.length and self.keys is not None and self.keys.dtype == dtype:
            return
        wanted = max(length, min(2 * self.length, self._max_length))
        wanted = -(-wanted // STEP) * STEP
        self.keys = self._grown(self.keys, wanted, dtype, device)
        self.values = self._grown(self.values, wanted, dtype, device)

    def _grown(self, old: Tensor | None, length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        layers, slots, kv_heads, head_dim = self._shape
        # Zeros, not garbage: masked positions still take part in sums as 0 x value, and 0 x NaN is NaN.
        new = torch.zeros(layers, slots, kv_heads, length, head_dim, dtype=dtype, device=device)
        if old is not None:
            new[:, :, :, : old.shape[3]] = old.to(dtype)
        return new

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of one row over another."""
        if self.keys is not None and self.values is not None:
            self.keys[:, target, :, :length] = self.keys[:, source, :, :length]
            self.values[:, target, :, :length] = self.values[:, source, :, :length]


class CacheView:
    """The cache as one forward pass sees it: rows `first` .. `first` + B, positions (B, T) written.

    The model calls `update` once per layer (see model.attention.KeyValueCache).
    """

    def __init__(self, cache: SlotCache, first: int, positions: Tensor, used: int) -> None:
        assert cache.keys is not None and cache.values is not None and used <= cache.length
        rows = slice(first, first + positions.shape[0])
        self._keys, self._values = cache.keys[:, rows], cache.values[:, rows]
        self._row = torch.arange(positions.shape[0], device=positions.device)[:, None]
        self._positions = positions
        self._used = used

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store k and v (B, kv heads, T, head_dim); return all that may be attended to, as views."""
        keys, values = self._keys[layer], self._values[layer]
        # Two index tensors around a slice put the indexed dimensions first: (B, T, kv heads, head_dim).
        keys[self._row, :, self._positions] = k.transpose(1, 2)
        values[self._row, :, self._positions] = v.transpose(1, 2)
        return keys[:, :, : self._used], values[:, :, : self._used]
