"""FlexAttention on CUDA: attention within documents that never looks at blocks of scores it would mask.

Documents packed in a row see only themselves, so of (T, T) scores most are masked: of 16,384 tokens in
documents of 1,000 about 15 in 16. FlexAttention (Dong et al., arXiv 2412.05496) computes blocks of 128 x 128
scores, and skips those that a `BlockMask` leaves out. Its compiled kernel is for CUDA; elsewhere masks are
added to the scores (`attention.additive`).

The block mask is found from the documents' numbers at the blocks' edges, not from all (T, T) pairs: a
block may be looked at where the ranges of numbers of its rows and columns meet, and is whole where both
hold one and the same number. A block too many costs time and changes nothing, since inside a block that
is not whole every pair is looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from modelwright.base.device import can_compile_for_gpu

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

BLOCK = 128
"""Tokens along each side of a block: what the kernel works in."""


def usable(segments: Tensor) -> bool:
    """Whether (B, T) rows of documents go this way: on CUDA, with a compiler, in whole blocks."""
    return segments.device.type == "cuda" and segments.shape[1] % BLOCK == 0 and can_compile_for_gpu()


def block_mask(segments: Tensor, window: int | None = None) -> BlockMask:
    """(B, T) document numbers -> which blocks are looked at: causal, only within a document, and no further
    back than `window` positions, one's own included."""
    from torch.nn.attention.flex_attention import BlockMask

    def may_see(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = (query >= key) & (segments[row, query] == segments[row, key])
        return seen if window is None else seen & (query - key < window)

    some, whole = block_table(segments, window or segments.shape[1])
    length = segments.shape[1]
    return BlockMask.from_kv_blocks(
        *_listed(some & ~whole),
        *_listed(whole),
        BLOCK_SIZE=BLOCK,
        mask_mod=may_see,
        seq_lengths=(length, length),
    )


def block_table(segments: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """(B, 1, n, n) blocks that may hold pairs to look at, and those of them in which every pair is. Pairs in
    blocks d apart are more than (d - 1) and less than (d + 1) blocks of tokens apart."""
    blocks = segments.unflatten(1, (-1, BLOCK))
    low, high = blocks.amin(-1), blocks.amax(-1)
    meet = (low[:, :, None] <= high[:, None]) & (low[:, None] <= high[:, :, None])
    one = (low == high)[:, :, None] & (low == high)[:, None] & (low[:, :, None] == low[:, None])
    causal = torch.ones(meet.shape[-2:], dtype=torch.bool, device=segments.device).tril()
    near = causal.triu(-((window + BLOCK - 2) // BLOCK))
    within = causal.tril(-1).triu(1 - window // BLOCK)
    return (meet & near)[:, None], (one & within)[:, None]


def _listed(table: Tensor) -> tuple[Tensor, Tensor]:
    """A table of blocks as the kernel wants it: how many in each row, and which, these first."""
    order = table.int().argsort(dim=-1, descending=True, stable=True)
    return table.sum(-1, dtype=torch.int32), order.to(torch.int32)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: BlockMask) -> Tensor:
    """(B, H, T, hd) queries over (B, K, T, hd) keys and values, K dividing H."""
    from torch.nn.attention.flex_attention import flex_attention

    gqa = q.shape[1] != k.shape[1]
    if (
        torch.compiler.is_compiling() or q.device.type != "cuda"
    ):  # a compiled block fuses it; a CPU runs it as is
        return _only(flex_attention(q, k, v, block_mask=mask, enable_gqa=gqa))
    with torch.compiler.set_stance("default"):  # run eagerly it would hold all scores
        return _only(_compiled()(q, k, v, block_mask=mask, enable_gqa=gqa))


def _only(mixed: Any) -> Tensor:
    assert isinstance(mixed, Tensor)
    return mixed


@cache
def _compiled() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)
