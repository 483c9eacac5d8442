"""How the next token is drawn, for a whole batch at once.

The filters come in a documented order: temperature, top_k, top_p, min_p. A filter that sets tokens
aside works on what the one before it left, renormalised. The draw inverts the cumulative
distribution in the order of token ids, with a number from the request's own stream. That stream is
counter-based (SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
2014): number t depends on the seed and t alone. So a request gets the same text whatever else is in
the batch.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from modelwright.base.errors import UserError
from modelwright.base.schema import Sampling
from modelwright.base.seeding import derive

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_MASK = (1 << 64) - 1
LIKELY = 256
"""How many of the likeliest tokens the filters look at before they look at all."""


def check(sampling: Sampling, vocab_size: int) -> None:
    """Refuse settings that have no meaning, before anything is computed with them."""
    rules = (
        (sampling.max_tokens >= 1, "max_tokens", "1 or more", sampling.max_tokens),
        (0 <= sampling.temperature < float("inf"), "temperature", "0 (greedy) or more", sampling.temperature),
        (sampling.top_k >= 0, "top_k", "0 (keep all) or more", sampling.top_k),
        (0 < sampling.top_p <= 1, "top_p", "above 0 and at most 1", sampling.top_p),
        (0 <= sampling.min_p <= 1, "min_p", "between 0 and 1", sampling.min_p),
        (
            0 <= sampling.top_logprobs <= vocab_size,
            "top_logprobs",
            f"0 to {vocab_size}",
            sampling.top_logprobs,
        ),
        (all(sampling.stop), "stop", "strings that are not empty", sampling.stop),
    )
    for good, name, expected, received in rules:
        if not good:
            raise UserError(f"{name} is {received!r}, expected {expected}")


def seed_of_copy(seed: int | None, copy: int) -> int:
    """The seed of the n-th completion of one prompt: the first keeps the request's own seed."""
    if seed is None:
        return secrets.randbits(63)
    return seed if copy == 0 else derive(seed, "copy", copy)


def _mix(state: np.ndarray) -> np.ndarray:
    state = (state ^ (state >> np.uint64(30))) * _MIX_1
    state = (state ^ (state >> np.uint64(27))) * _MIX_2
    return state ^ (state >> np.uint64(31))


def uniforms(seeds: np.ndarray, counts: np.ndarray) -> Tensor:
    """(B,) fp64 numbers in [0, 1): the `counts`-th of each seed's stream (both uint64)."""
    with np.errstate(over="ignore"):
        start = _mix(seeds + _GOLDEN)
        bits = _mix(start + (counts + np.uint64(1)) * _GOLDEN)
    return torch.from_numpy((bits >> np.uint64(11)).astype(np.float64) * 2.0**-53)


@dataclass(frozen=True, slots=True)
class Settings:
    """The sampling settings of a batch as columns, made once per change of the batch."""

    temperature: Tensor
    """(B, 1) fp32; 1 where the row is greedy."""
    greedy: Tensor
    """(B,) bool."""
    top_k: Tensor
    """(B, 1) int64; the vocabulary's size keeps all."""
    top_p: Tensor
    """(B, 1) fp32."""
    min_p: Tensor
    """(B, 1) fp32."""
    seeds: np.ndarray
    """(B,) uint64."""
    sorted_rows: Tensor
    """Indices of the rows whose filters need a sort."""
    all_greedy: bool
    any_greedy: bool
    any_min_p: bool
    top_logprobs: int
    """The most alternatives that any row asks for."""

    @classmethod
    def of(
        cls, samplings: Sequence[Sampling], seeds: Sequence[int], vocab_size: int, device: str
    ) -> Settings:
        """Columns of a list of settings; `seeds` are those actually used."""
        greedy = [s.temperature == 0 for s in samplings]
        top_k = [min(s.top_k, vocab_size) or vocab_size for s in samplings]
        sort = [
            row
            for row, s in enumerate(samplings)
            if not greedy[row] and (top_k[row] < vocab_size or s.top_p < 1)
        ]

        def column(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device)[:, None]

        return cls(
            temperature=column([s.temperature or 1.0 for s in samplings]),
            greedy=torch.tensor(greedy, device=device),
            top_k=torch.tensor(top_k, device=device)[:, None],
            top_p=column([s.top_p for s in samplings]),
            min_p=column([s.min_p for s in samplings]),
            seeds=np.array([seed & _MASK for seed in seeds], dtype=np.uint64),
            sorted_rows=torch.tensor(sort, dtype=torch.int64, device=device),
            all_greedy=all(greedy),
            any_greedy=any(greedy),
            any_min_p=any(s.min_p > 0 for s in samplings),
            top_logprobs=max((s.top_logprobs for s in samplings), default=0),
        )


def filtered(logits: Tensor, settings: Settings) -> Tensor:
    """(B, V) fp32 distribution after temperature and filters; a greedy row is one-hot."""
    scaled = (logits - logits.amax(-1, keepdim=True)) / settings.temperature
    probabilities = torch.softmax(scaled, -1)
    rows = settings.sorted_rows
    if len(rows):
        some = probabilities[rows]
        keep = _kept_by_rank(some, settings.top_k[rows], settings.top_p[rows])
        probabilities[rows] = some.masked_fill_(~keep, 0.0)
    if settings.any_min_p:
        floor = settings.min_p * probabilities.amax(-1, keepdim=True)
        probabilities.masked_fill_(probabilities < floor, 0.0)
    if settings.any_greedy:
        best = torch.zeros_like(probabilities).scatter_(1, logits.argmax(-1, keepdim=True), 1.0)
        probabilities = torch.where(settings.greedy[:, None], best, probabilities)
    return probabilities / probabilities.sum(-1, keepdim=True)


def _wide(tensor: Tensor) -> torch.dtype:
    """fp64 for sums over a vocabulary, where the device has it."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64


def _kept_by_rank(probabilities: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """(B, V) bool: the k most likely, and of these the fewest whose share reaches top_p.

    Sorting a vocabulary costs more than a small model's forward pass. So the best few are tried first;
    they settle every row that keeps no more than them.
    """
    vocab = probabilities.shape[-1]
    whole = probabilities.sum(-1, keepdim=True)
    for width in (min(LIKELY, vocab), vocab):
        ordered, order = probabilities.topk(width, dim=-1)
        ordered = ordered.masked_fill(torch.arange(width, device=ordered.device) >= top_k, 0.0)
        cumulative = ordered.cumsum(-1, dtype=_wide(ordered))
        reached = cumulative[:, -1:]
        settled = (top_k <= width) | ((top_k >= vocab) & (reached >= top_p * whole))
        if width == vocab or bool(settled.all()):
            break
    total = torch.where(top_k >= vocab, whole, reached)
    keep = (ordered > 0) & (cumulative - ordered < top_p * total)
    return torch.zeros_like(probabilities, dtype=torch.bool).scatter_(1, order, keep)


@dataclass(frozen=True, slots=True)
class Choice:
    """What was drawn for a batch, as Python lists: the border between tensors and policy."""

    ids: list[int]
    logprobs: list[float]
    top: list[list[tuple[int, float]]] | None
    """For each row the most likely (id, log-probability) pairs, best first."""


def choose(logits: Tensor, settings: Settings, counts: Sequence[int]) -> Choice:
    """Draw one token per row of `logits` (B, V) fp32; `counts` is how many each row has drawn.

    The log-probabilities reported are the model's own, before temperature and filters.
    """
    normaliser = logits.logsumexp(-1, keepdim=True)
    if not bool(normaliser.isfinite().all()):
        raise UserError("the model's logits are not finite (NaN or infinity): its weights are broken")
    if settings.all_greedy:
        ids = logits.argmax(-1, keepdim=True)
    else:
        ids = _draw(filtered(logits, settings), settings.seeds, np.array(counts, dtype=np.uint64))
    logprobs = logits.gather(1, ids) - normaliser
    top = None
    if settings.top_logprobs:
        top = best_tokens(logits - normaliser, settings.top_logprobs)
    return Choice(ids[:, 0].tolist(), logprobs[:, 0].tolist(), top)


def _draw(probabilities: Tensor, seeds: np.ndarray, counts: np.ndarray) -> Tensor:
    """(B, 1) ids drawn from each row of (B, V), with the `counts`-th number of each seed's stream."""
    cumulative = probabilities.cumsum(-1, dtype=_wide(probabilities))
    number = uniforms(seeds, counts).to(cumulative)
    # The total may miss 1 by rounding: scaled by it, a number below 1 always meets a kept token.
    target = number[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True).clamp_(max=probabilities.shape[-1] - 1)


def draw_one(probabilities: Tensor, seed: int, count: int) -> int:
    """The token that a request with this seed draws as its `count`-th (from 0) out of (V,)."""
    seeds = np.array([seed & _MASK], dtype=np.uint64)
    return int(_draw(probabilities[None], seeds, np.array([count], dtype=np.uint64)))


def best_tokens(logprobs: Tensor, count: int) -> list[list[tuple[int, float]]]:
    """For each row of (N, V) the `count` most likely (id, log-probability) pairs, best first."""
    values, ids = logprobs.topk(min(count, logprobs.shape[-1]), dim=-1)
    pairs = zip(ids.tolist(), values.tolist(), strict=True)
    return [list(zip(row_ids, row_values, strict=True)) for row_ids, row_values in pairs]
