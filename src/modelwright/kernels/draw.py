"""One token for each row of logits: temperature, filters and the draw, for a whole batch at once.

A token's weight is exp((logit - highest logit) / temperature), so that the likeliest weighs 1. The filters
set tokens aside one after the other: all but the `top_k` heaviest; of those left the fewest whose share
reaches `top_p` (equal weights go by id); those that weigh less than `min_p`. The draw inverts the
cumulative weights in the order of ids.

`reference` is the plain version that the fused one (`draw` in native.cpp) is tested against, and what runs
where the fused one cannot. Both sum in fp64 and differ in the last bits of exp alone: about one draw in a
hundred thousand falls between, and takes a neighbour.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from modelwright.kernels import native

LIKELY = 256
"""How many of the likeliest tokens the filters look at before they look at all."""


@dataclass(frozen=True, slots=True)
class Filters:
    """How each row of a batch is drawn, as columns on the logits' device."""

    inverse_temperature: Tensor
    """(B,) fp32, positive."""
    top_k: Tensor
    """(B,) int64, 1 (the likeliest, whatever the rest says) to V (all)."""
    top_p: Tensor
    """(B,) of `wide` type; 1 keeps all."""
    min_p: Tensor
    """(B,) fp32; 0 keeps all."""
    greedy: Tensor
    """Indices of the rows with a top_k of 1."""
    ranked: Tensor
    """Indices of the others that top_k or top_p cuts."""


@dataclass(frozen=True, slots=True)
class Best:
    """The likeliest tokens of each row, best first: under the model, and under what was drawn from."""

    ids: Tensor
    """(B, 2, N) int64; -1 where a row asks for fewer, or no more are possible."""
    logprobs: Tensor
    """(B, 2, N) of `wide` type."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """What was drawn for each row."""

    ids: Tensor
    """(B,) int64."""
    logprobs: Tensor
    """(B, 2) of `wide` type: of the id under the model and under what it was drawn from. NaN where logits
    are broken, or no token can be drawn."""
    best: Best | None
    """None where no row asks."""


def wide(device: torch.device | str) -> torch.dtype:
    """fp64 for sums over a vocabulary, where the device has it."""
    return torch.float32 if str(device).startswith("mps") else torch.float64


def draw(
    logits: Tensor, edited: Tensor, filters: Filters, numbers: Tensor, listed: Tensor | None = None
) -> Drawn:
    """Draw from `edited` (B, V) with `numbers` (B,) of `wide` type in [0, 1), one for each row.

    `logits` (B, V), which may be the same tensor, are the model's own. Both are fp32. `listed` (B,) int64 is
    how many of the likeliest tokens each row asks for.
    """
    if not native.usable(logits, edited):
        return reference(logits, edited, filters, numbers, listed)
    same = edited is logits
    logits = logits.contiguous()
    edited = logits if same else edited.contiguous()
    rows, vocab = logits.shape
    best = None if listed is None else _none_listed(listed, rows, torch.float64)
    drawn = Drawn(
        ids=torch.empty(rows, dtype=torch.int64),
        logprobs=torch.empty(rows, 2, dtype=torch.float64),
        best=best,
    )
    columns = (filters.inverse_temperature, filters.top_k, filters.top_p, filters.min_p, numbers)
    told = (None, None, None, 0) if best is None else (listed, best.ids, best.logprobs, best.ids.shape[-1])
    native.call("draw", logits.dtype, logits, edited, *columns, drawn.ids, drawn.logprobs, *told, rows, vocab)
    return drawn


def _none_listed(listed: Tensor, rows: int, dtype: torch.dtype) -> Best:
    shape, device = (rows, 2, int(listed.max())), listed.device
    ids = torch.full(shape, -1, dtype=torch.int64, device=device)
    return Best(ids, torch.full(shape, -torch.inf, dtype=dtype, device=device))


def reference(
    logits: Tensor, edited: Tensor, filters: Filters, numbers: Tensor, listed: Tensor | None = None
) -> Drawn:
    """The same as `draw`, in plain torch."""
    heavy = weights(edited, filters)
    cumulative = heavy.cumsum(-1, dtype=wide(heavy.device))
    total = cumulative[:, -1:]
    # A number below 1, times the total, stays below the total: it always meets a token that is kept.
    ids = torch.searchsorted(cumulative, numbers[:, None] * total, right=True)
    ids.clamp_(max=heavy.shape[-1] - 1)  # NaN is beyond all
    return _drawn(logits, heavy, ids, total, listed)


def race(
    logits: Tensor, edited: Tensor, filters: Filters, times: Tensor, listed: Tensor | None = None
) -> Drawn:
    """The same distribution drawn in another way: each token takes its exponential time, `times` (B, V),
    over its weight, and the first wins (Gumbel's trick).

    Two models that draw with the same times, and know nothing of each other, agree as often as
    (1 - d) / (1 + d) at least, where their distributions are a total variation d apart; 1 - d is the most
    that is possible at all (Daliri, Musco and Suresh, arXiv 2408.07978).
    """
    heavy = weights(edited, filters)
    ids = (times / heavy).argmin(-1, keepdim=True)
    return _drawn(logits, heavy, ids, heavy.sum(-1, keepdim=True, dtype=times.dtype), listed)


def _drawn(logits: Tensor, heavy: Tensor, ids: Tensor, total: Tensor, listed: Tensor | None) -> Drawn:
    normaliser = logits.logsumexp(-1, keepdim=True)
    own = (logits.gather(1, ids) - normaliser).to(total.dtype)
    drawn_from = (heavy.gather(1, ids) / total).log()
    best = None if listed is None else _best(logits, normaliser, heavy, total, listed)
    return Drawn(ids[:, 0], torch.cat([own, drawn_from], 1), best)


def _best(logits: Tensor, normaliser: Tensor, heavy: Tensor, total: Tensor, listed: Tensor) -> Best:
    """The likeliest tokens, for rows that ask; what a list says of the drawn token is what is said of it
    beside the list, to the bit."""
    found = _none_listed(listed, len(logits), total.dtype)
    rows = listed.nonzero()[:, 0]
    asked = torch.arange(found.ids.shape[-1], device=listed.device) < listed[rows, None]
    likely, likely_ids = logits[rows].topk(asked.shape[-1], dim=-1)
    heaviest, heaviest_ids = heavy[rows].topk(asked.shape[-1], dim=-1)
    logprobs = (likely - normaliser[rows]).to(total.dtype), (heaviest / total[rows]).log()
    for place, ids in enumerate((likely_ids, heaviest_ids)):
        told = asked & (logprobs[place] > -torch.inf)
        found.ids[rows, place] = torch.where(told, ids, -1)
        found.logprobs[rows, place] = logprobs[place].where(told, -torch.inf)
    return found


def weights(logits: Tensor, filters: Filters) -> Tensor:
    """(B, V) fp32: what each token weighs in the draw, 0 where a filter set it aside."""
    top = logits.amax(-1, keepdim=True)
    heavy = (logits - top).mul_(filters.inverse_temperature[:, None]).exp_()
    rows = filters.ranked
    if len(rows):
        some = heavy[rows]
        heavy[rows] = some * _kept_by_rank(some, filters.top_k[rows, None], filters.top_p[rows, None])
    heavy.masked_fill_(heavy < filters.min_p[:, None], 0.0)
    rows = filters.greedy
    if len(rows):
        best = logits[rows].argmax(-1, keepdim=True)
        one = torch.zeros_like(logits[rows]).scatter_(1, best, 1.0)
        heavy[rows] = one.masked_fill_(~top[rows].isfinite(), torch.nan)
    return heavy


def _kept_by_rank(heavy: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """(B, V) bool: the k heaviest, and of these the fewest whose share reaches top_p.

    Sorting a vocabulary costs more than a small model's forward pass. So the best few are tried first;
    they settle every row that keeps no more than them.
    """
    vocab = heavy.shape[-1]
    precise = wide(heavy.device)
    whole = heavy.sum(-1, keepdim=True, dtype=precise)
    for width in (min(LIKELY, vocab), vocab):
        ordered = heavy.topk(width, dim=-1).values
        places = torch.arange(width, device=heavy.device)
        cumulative = ordered.masked_fill(places >= top_k, 0.0).cumsum(-1, dtype=precise)
        reached = cumulative[:, -1:]
        settled = (top_k <= width) | ((top_k >= vocab) & (reached >= top_p * whole))
        if width == vocab or bool(settled.all()):
            break
    total = torch.where(top_k >= vocab, whole, reached)
    reach = (cumulative < top_p * total).sum(-1, keepdim=True) + 1  # how many it takes to reach the share
    kept = torch.where(top_p < 1, torch.minimum(reach, top_k), top_k).clamp_(max=width)
    border = ordered.gather(1, kept - 1)
    heavier, equal = heavy > border, heavy == border
    room = kept - heavier.sum(-1, keepdim=True)
    return heavier | (equal & (equal.cumsum(-1) <= room))
