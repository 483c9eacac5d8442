"""How the answers to a few fixed prompts change while a model is trained.

Losses say that something is learned, answers say what. The prompts are held out, and answered greedily after
every so many measurements, the first time before the first step; nothing of it touches the training: weights,
gradients and random state stay as they were. A line an answer in `samples.jsonl`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress, islice
from typing import Any

import torch
from pydantic import Field

from modelwright.base.config import Config
from modelwright.base.metrics import MetricsFile
from modelwright.base.run import Run
from modelwright.base.schema import Conversation, Message, Sampling
from modelwright.base.seams import Tokenizer
from modelwright.tokenizer.chat import render

SAMPLES = "samples.jsonl"
SHOWN = 100
"""Characters of an answer in the log."""


class SamplesConfig(Config):
    """Which prompts, and how often they are answered."""

    prompts: tuple[str, ...] = ()
    """What a user says, in your words. Before these come `held_out` openings of held-out conversations."""
    held_out: int = Field(default=3, ge=0)
    every: int = Field(default=1, gt=0)
    """Measurements between answers. At the end, those of the weights that are handed on are always shown."""
    max_tokens: int = Field(default=64, gt=0)
    """Longest answer."""


class Samples:
    """Answers the prompts and writes down what came. A `Show` of the loop (training/loop.py)."""

    def __init__(
        self,
        config: SamplesConfig,
        model: Any,
        tokenizer: Tokenizer,
        held_out: Sequence[Conversation],
        run: Run,
        period: int,
    ) -> None:
        """`period`: steps between measurements. The model is read anew each time."""
        self._config, self._model, self._tokenizer, self._run = config, model, tokenizer, run
        self._period = period * config.every
        own = [(Conversation(messages=(Message(role="user", content=text),)), "") for text in config.prompts]
        asked = [*islice(map(opening, held_out), config.held_out), *own]
        ids = [render(tokenizer, prompt, add_generation_prompt=True).ids for prompt, _ in asked]
        fits = [len(each) < model.config.max_position_embeddings for each in ids]
        self._ids, self._asked = list(compress(ids, fits)), list(compress(asked, fits))
        self._begun = False
        if not all(fits):
            run.log(f"{fits.count(False)} of {len(fits)} prompts for samples exceed the model's context")

    def __call__(self, step: int, is_last: bool) -> None:
        """Answer all prompts after `step` steps, if it is time."""
        if self._run.sampler_of is None or not self._asked or (step % self._period and not is_last):
            return
        device = self._model.head.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            sampler = self._run.sampler_of(self._model, self._tokenizer, len(self._ids))
            answers = sampler.sample(self._ids, Sampling(max_tokens=self._config.max_tokens))
        file = MetricsFile(self._run.dir / SAMPLES)
        if not self._begun:
            file.rewind(step - 1)  # an earlier session may have come further than its checkpoint
        self._begun = True
        for (asked, reference), answer in zip(self._asked, answers, strict=True):
            said = {"answer": answer.text, "tokens": len(answer.ids), "ended": answer.finish_reason}
            given = {"reference": reference} if reference else {}
            prompt = asked.messages[-1].content if asked.messages else ""
            file.write(step, {"prompt": prompt, **said, **given})
        file.close()
        self._run.log(f"step {step:,} answers: {answers[0].text[:SHOWN]!r}")


def opening(conversation: Conversation) -> tuple[Conversation, str]:
    """A conversation up to its first answer, and that answer."""
    messages = conversation.messages
    first = next(place for place, message in enumerate(messages) if message.role == "assistant")
    asked = Conversation(messages=messages[:first], tools=conversation.tools)
    return asked, messages[first].content
