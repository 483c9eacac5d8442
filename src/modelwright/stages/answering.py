"""Answers of a model while other stages work on it: the engine, as the Sampler that a run gives them.

Who lives a station hands `sampler_of` to its Run (base/run.py), so a stage that trains asks for answers and
sees a Sampler: it is read, and tested, without the engine. The plain path is taken where nothing else is
asked for: it reads the weights where they are, and layers may be wrapped (adapters), which compiled steps
would not see. Compiled steps hold weights of their own: they are told of each change (`update_weights`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from modelwright.base.schema import Completion, Sampling
from modelwright.base.seams import Sampler
from modelwright.base.seeding import derive
from modelwright.inference.engine import Engine
from modelwright.inference.text import ByteTokenizer
from modelwright.model.transformer import Transformer


class Answering(Engine):
    """The engine, with a draw of its own for each prompt: to a list of prompts under one seed the engine
    would give the same random numbers, and what is learned from such answers would vary the more."""

    def sample(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Completion]:
        """Complete every prompt; the seed of each is derived from that of `sampling` and from its place."""
        seed = sampling.seed
        own = [None if seed is None else derive(seed, "place", place) for place in range(len(prompts))]
        return self.complete(prompts, [replace(sampling, seed=each) for each in own])


def sampler_of(
    model: Transformer, tokenizer: ByteTokenizer, slots: int, *, use_compiled: bool = False
) -> Sampler:
    """Answers with the weights as they are now, `slots` prompts at a time."""
    return Answering(model, tokenizer, max_slots=slots, use_compiled=use_compiled)
