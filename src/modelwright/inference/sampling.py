"""How the next token is drawn, for a whole batch at once.

In a documented order: penalties and bias (penalties.py), the mask of a structure, then temperature, top_k,
top_p and min_p (kernels/draw.py). A filter that sets tokens aside works on what the one before it left,
renormalised. The draw takes a number from the request's own stream, which is counter-based (SplitMix64:
Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014): number t depends on the seed
and t alone. So a request gets the same text whatever else is in the batch.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from modelwright.base.errors import UserError
from modelwright.base.schema import Sampling
from modelwright.base.seeding import derive
from modelwright.inference.penalties import Penalties, penalise
from modelwright.kernels.draw import Best, Filters, draw, race, weights, wide

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_MASK = (1 << 64) - 1
_COLDEST, _HOTTEST = float(np.finfo(np.float32).max), 1e-38
"""Bounds of 1 / temperature in fp32: neither 0 nor infinite."""


class BrokenModel(UserError):
    """What the model computed is no number."""

    def __init__(self) -> None:
        super().__init__("the model's logits are not finite (NaN or infinity): its weights are broken")


TopTokens = list[tuple[int, float]]
"""(id, log-probability) pairs, best first."""


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
        (
            0 <= sampling.min_tokens <= sampling.max_tokens,
            "min_tokens",
            f"0 to max_tokens ({sampling.max_tokens})",
            sampling.min_tokens,
        ),
        (all(sampling.stop), "stop", "strings that are not empty", sampling.stop),
        (
            # In these bounds no logit overflows: an infinite one would end everybody's step.
            0.01 <= sampling.repetition_penalty <= 100,
            "repetition_penalty",
            "0.01 to 100 (1 changes nothing)",
            sampling.repetition_penalty,
        ),
        (-2 <= sampling.presence_penalty <= 2, "presence_penalty", "-2 to 2", sampling.presence_penalty),
        (-2 <= sampling.frequency_penalty <= 2, "frequency_penalty", "-2 to 2", sampling.frequency_penalty),
    )
    for good, name, expected, received in rules:
        if not good:
            raise UserError(f"{name} is {received!r}, expected {expected}")
    if sampling.structure is not None and (sampling.min_tokens or sampling.ignore_eos):
        raise UserError("a structure says where its answer ends: leave min_tokens and ignore_eos out")
    for token, bias in sampling.logit_bias:
        if not 0 <= token < vocab_size:
            raise UserError(f"logit_bias names token {token}, expected 0 to {vocab_size - 1}")
        if not -100 <= bias <= 100:
            raise UserError(f"logit_bias of token {token} is {bias!r}, expected -100 to 100")


def seed_of_copy(seed: int | None, copy: int) -> int:
    """The seed of the n-th completion of one prompt: the first keeps the request's own seed."""
    if seed is None:
        return secrets.randbits(63)
    return seed if copy == 0 else derive(seed, "copy", copy)


def _mix(state: np.ndarray) -> np.ndarray:
    state = (state ^ (state >> np.uint64(30))) * _MIX_1
    state = (state ^ (state >> np.uint64(27))) * _MIX_2
    return state ^ (state >> np.uint64(31))


def streams(seeds: Sequence[int]) -> np.ndarray:
    """(B,) uint64: where the stream of each seed starts."""
    return _mix(np.array([seed & _MASK for seed in seeds], dtype=np.uint64) + _GOLDEN)


def uniforms(streams: np.ndarray, counts: np.ndarray) -> Tensor:
    """(B,) fp64 numbers in [0, 1): the `counts`-th (uint64) of each stream."""
    bits = _mix(streams + (counts + np.uint64(1)) * _GOLDEN)
    return torch.from_numpy((bits >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def times(streams: np.ndarray, counts: np.ndarray, vocab_size: int) -> Tensor:
    """(B, V) fp64 exponentially distributed: for the `counts`-th draw of each stream one for each token."""
    starts = _mix(streams + (counts + np.uint64(1)) * _GOLDEN)[:, None]
    bits = _mix(starts + np.arange(1, vocab_size + 1, dtype=np.uint64) * _GOLDEN)
    return torch.from_numpy(-np.log(((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53))


@dataclass(frozen=True, slots=True)
class Settings:
    """The sampling settings of a batch, made once per change of the batch."""

    filters: Filters
    streams: np.ndarray
    """(B,) uint64."""
    penalties: tuple[tuple[int, Penalties], ...]
    """(row, its penalties), for rows that have any."""
    listed: Tensor | None
    """(B,) int64: how many alternatives each row wants to see; None where no row wants any."""
    vocab_size: int
    race: bool = False
    """Whether tokens are drawn by a race (kernels/draw.py), so that a draft model can agree."""

    @classmethod
    def of(
        cls,
        samplings: Sequence[Sampling],
        seeds: Sequence[int],
        vocab_size: int,
        device: str,
        penalties: Sequence[Penalties | None] = (),
        *,
        race: bool = False,
    ) -> Settings:
        """Of a list of settings; `seeds` are those actually used, and `penalties` may grow later."""
        # Greedy is a top_k of 1, whatever the other filters say: the likeliest passes them all.
        top_k = [1 if s.temperature == 0 else min(s.top_k, vocab_size) or vocab_size for s in samplings]
        cuts = [k > 1 and (k < vocab_size or s.top_p < 1) for k, s in zip(top_k, samplings, strict=True)]
        inverse = [1 / s.temperature if s.temperature > 1 / _COLDEST else _COLDEST for s in samplings]

        def column(values: Sequence[float], dtype: type[np.number]) -> Tensor:
            # By way of numpy, four times as quick: with guesses the rows change in nearly every step.
            return torch.from_numpy(np.array(values, dtype=dtype)).to(device)

        precise = np.float64 if wide(device) == torch.float64 else np.float32
        return cls(
            filters=Filters(
                inverse_temperature=column([max(value, _HOTTEST) for value in inverse], np.float32),
                top_k=column(top_k, np.int64),
                top_p=column([s.top_p for s in samplings], precise),
                min_p=column([s.min_p for s in samplings], np.float32),
                greedy=column([row for row, k in enumerate(top_k) if k == 1], np.int64),
                ranked=column([row for row, cut in enumerate(cuts) if cut], np.int64),
            ),
            streams=streams(seeds),
            penalties=tuple((row, found) for row, found in enumerate(penalties) if found is not None),
            listed=column([min(s.top_logprobs, vocab_size) for s in samplings], np.int64)
            if any(s.top_logprobs for s in samplings)
            else None,
            vocab_size=vocab_size,
            race=race and max(top_k) > 1,
        )

    def edited(
        self,
        logits: Tensor,
        masks: Mapping[int, Tensor] | None = None,
        barred: Mapping[int, list[int]] | None = None,
    ) -> Tensor:
        """(B, V) logits after penalties, bias, `masks` (row -> (V,) bool, the tokens that are allowed) and
        `barred` (row -> tokens that are not); the same tensor where nothing is to be done."""
        if not self.penalties and not masks and not barred:
            return logits
        edited = logits.clone(memory_format=torch.contiguous_format)
        if self.penalties:
            penalise(edited, self.penalties)
        for row, allowed in (masks or {}).items():
            edited[row].masked_fill_(~allowed.to(edited.device), -torch.inf)
        for row, tokens in (barred or {}).items():
            edited[row, tokens] = -torch.inf
        return edited


def filtered(logits: Tensor, settings: Settings, masks: Mapping[int, Tensor] | None = None) -> Tensor:
    """(B, V) fp32 distribution that `choose` draws from; a greedy row is one-hot."""
    heavy = weights(settings.edited(logits, masks), settings.filters)
    return heavy / heavy.sum(-1, keepdim=True)


@dataclass(frozen=True, slots=True)
class Stage:
    """The distribution after one of the steps that lead from a model's logits to a draw."""

    name: str
    probabilities: Tensor
    """(V,) fp32, renormalised."""


def stages(
    logits: Tensor, sampling: Sampling, prompt: Sequence[int], answer: Sequence[int] = ()
) -> list[Stage]:
    """From the model's own distribution, of `logits` (V,), to what is drawn from: one step after the other,
    those without effect left out. A greedy draw is one step."""
    penalised = replace(
        Sampling(temperature=1.0),
        repetition_penalty=sampling.repetition_penalty,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        logit_bias=sampling.logit_bias,
    )
    warm = replace(penalised, temperature=sampling.temperature)
    steps = [
        ("model", Sampling(temperature=1.0)),
        ("penalties and bias", penalised),
        ("temperature", warm),
        ("top-k", replace(warm, top_k=sampling.top_k)),
        ("top-p", replace(warm, top_k=sampling.top_k, top_p=sampling.top_p)),
        ("min-p", replace(warm, top_k=sampling.top_k, top_p=sampling.top_p, min_p=sampling.min_p)),
    ]
    if sampling.temperature == 0:
        del steps[3:]  # filters leave the likeliest in any case
    found: list[Stage] = []
    for place, (name, step) in enumerate(steps):
        if place == 0 or step != steps[place - 1][1]:
            own = Penalties.of(step, prompt, answer)
            settings = Settings.of([step], [0], len(logits), str(logits.device), [own])
            found.append(Stage(name, filtered(logits[None], settings)[0]))
    return found


@dataclass(frozen=True, slots=True)
class Choice:
    """What was drawn for a batch, as Python lists: the border between tensors and policy."""

    ids: list[int]
    logprobs: list[float]
    """Under the model."""
    sampler_logprobs: list[float]
    """Under what it was drawn from."""
    top: list[TopTokens] | None
    """For each row the most likely tokens under the model, as many as it asks for; None if no row asks."""
    top_sampler: list[TopTokens] | None
    """The same under what was drawn from: only tokens that could be drawn."""

    def fault(self, row: int) -> UserError | None:
        """Why there was nothing to draw in a row, if that is so: its id means nothing then."""
        if not math.isfinite(self.logprobs[row]):
            return BrokenModel()
        if not math.isfinite(self.sampler_logprobs[row]):
            return UserError("structure, bias and min_tokens leave no token that could be drawn")
        return None


class Columns:
    """Settings of a batch's rows, kept as long as the same rows come."""

    def __init__(self, vocab_size: int, device: str, *, race: bool) -> None:
        self._vocab_size, self._device, self._race = vocab_size, device, race
        self._kept: tuple[list[Sampling], list[int], Settings] | None = None

    def of(
        self, samplings: list[Sampling], seeds: list[int], penalties: Sequence[Penalties | None]
    ) -> Settings:
        """The settings, with the penalties of this step."""
        if self._kept is None or self._kept[:2] != (samplings, seeds):
            made = Settings.of(samplings, seeds, self._vocab_size, self._device, race=self._race)
            self._kept = samplings, seeds, made
        settings = self._kept[2]
        found = tuple((row, each) for row, each in enumerate(penalties) if each is not None)
        return replace(settings, penalties=found) if found else settings


def choose(
    logits: Tensor,
    settings: Settings,
    counts: Sequence[int],
    masks: Mapping[int, Tensor] | None = None,
    barred: Mapping[int, list[int]] | None = None,
) -> Choice:
    """Draw one token per row of `logits` (B, V) fp32; `counts` is how many each row has drawn. Rows in which
    there is nothing to draw have a `fault`.

    `masks` has a (V,) bool of allowed tokens for rows that are not free to draw any, `barred` the tokens that
    a row may not draw.
    """
    places = np.array(counts, dtype=np.uint64)
    edited = settings.edited(logits, masks, barred)
    column = settings.filters.top_p
    if settings.race:
        random = times(settings.streams, places, settings.vocab_size).to(column)
        drawn = race(logits, edited, settings.filters, random, settings.listed)
    else:
        random = uniforms(settings.streams, places).to(column)
        drawn = draw(logits, edited, settings.filters, random, settings.listed)
    pairs = drawn.logprobs.tolist()
    return Choice(
        ids=drawn.ids.tolist(),
        logprobs=[own for own, _ in pairs],
        sampler_logprobs=[sampler for _, sampler in pairs],
        top=None if drawn.best is None else _listed(drawn.best, 0),
        top_sampler=None if drawn.best is None else _listed(drawn.best, 1),
    )


def _listed(best: Best, place: int) -> list[TopTokens]:
    """Each row's list under the model (0), or under what was drawn from (1)."""
    rows = zip(best.ids[:, place].tolist(), best.logprobs[:, place].tolist(), strict=True)
    return [[pair for pair in zip(*row, strict=True) if pair[0] >= 0] for row in rows]
