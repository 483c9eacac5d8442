"""What a request does to its logits before anything is drawn: penalties on tokens that it holds, and bias.

Definitions as in Hugging Face, vLLM and OpenAI's interface, in this order. The repetition penalty r (CTRL,
arXiv 1909.05858) divides a positive logit by r and multiplies a negative one by it, for every token that
prompt or answer holds. Of a token that the answer holds n times, n times the frequency penalty and once
the presence penalty are taken. Then the bias is added.
"""

from __future__ import annotations

import copy
from array import array
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from modelwright.base.schema import Sampling


class Penalties:
    """One request's, grown with each token of its answer: what has been counted is not counted again.

    Only tokens that something is done to have a place, so that a step costs as much as there are of these,
    whatever the vocabulary's size.
    """

    def __init__(self, sampling: Sampling, prompt: Sequence[int] = (), answer: Sequence[int] = ()) -> None:
        self._sampling = sampling
        self._places: dict[int, int] = {}
        self._answered: set[int] = set()
        self._ids, self._factor, self._shift = array("q"), array("d"), array("d")
        if sampling.repetition_penalty != 1:
            for token in prompt:
                self._factor[self._place(token)] = sampling.repetition_penalty
        for token, bias in sampling.logit_bias:
            self._shift[self._place(token)] += bias
        for token in answer:
            self.add(token)

    @classmethod
    def of(cls, sampling: Sampling, prompt: Sequence[int], answer: Sequence[int] = ()) -> Penalties | None:
        """None where the settings leave every logit as it is."""
        neutral = (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty)
        return None if neutral == (1, 0, 0) and not sampling.logit_bias else cls(sampling, prompt, answer)

    def ahead(self, tokens: Sequence[int]) -> list[Penalties]:
        """These, and what they would be after each of `tokens`, which nobody has accepted yet."""
        found: list[Penalties] = [self]
        for token in tokens:
            after: Penalties = copy.copy(found[-1])
            after._places, after._answered = dict(after._places), set(after._answered)
            after._ids, after._factor, after._shift = after._ids[:], after._factor[:], after._shift[:]
            after.add(token)
            found.append(after)
        return found

    def add(self, token: int) -> None:
        """The answer has one token more."""
        place = self._place(token)
        self._factor[place] = self._sampling.repetition_penalty
        self._shift[place] -= self._sampling.frequency_penalty
        if token not in self._answered:
            self._answered.add(token)
            self._shift[place] -= self._sampling.presence_penalty

    def columns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The ids (n,) int64 that something is done to, what their logits are divided or multiplied by, and
        what is added then (both fp64)."""
        return np.array(self._ids), np.array(self._factor), np.array(self._shift)

    def _place(self, token: int) -> int:
        place = self._places.setdefault(token, len(self._ids))
        if place == len(self._ids):
            self._ids.append(token)
            self._factor.append(1.0)
            self._shift.append(0.0)
        return place


def penalise(logits: Tensor, rows: Sequence[tuple[int, Penalties]]) -> None:
    """Change some rows of `logits` (B, V), which is contiguous, in place."""
    columns = [penalties.columns() for _, penalties in rows]
    starts = [row * logits.shape[-1] for row, _ in rows]
    places = np.concatenate([ids + start for (ids, _, _), start in zip(columns, starts, strict=True)])
    where = torch.from_numpy(places).to(logits.device)
    factor, shift = (
        torch.from_numpy(np.concatenate([column[i] for column in columns])).to(logits) for i in (1, 2)
    )
    flat = logits.view(-1)
    old = flat[where]
    flat[where] = torch.where(old > 0, old / factor, old * factor) + shift
