"""How fast an engine is: reading prompts (prefill) and going on token by token (decode), apart.

The two are bounded by different things. Prefill multiplies matrices, so arithmetic bounds it. A decoding
step reads every weight, and every sequence's keys and values, once: bandwidth bounds it, and the bytes that
`step_bytes` counts over the bandwidth are the time it takes at the least.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

import torch

from modelwright.base.schema import Sampling
from modelwright.inference.engine import Delta, Engine
from modelwright.model.config import ModelConfig
from modelwright.model.transformer import Transformer


@dataclass(frozen=True, slots=True)
class Phases:
    """The seconds of one batch of requests that came at once."""

    prefill: float
    """Until the last request has its first token."""
    decode: float
    """From then until the first request ends: everybody decodes, nobody else does."""
    decoded: int
    """Tokens of that second phase."""

    @property
    def decode_rate(self) -> float:
        """Tokens per second, of all requests together."""
        return self.decoded / self.decode


def random_prompts(vocab_size: int, count: int, length: int, seed: float) -> list[list[int]]:
    """Prompts that share no beginning, so that no cache answers for the model."""
    draw = random.Random(seed)
    return [[draw.randrange(vocab_size) for _ in range(length)] for _ in range(count)]


def time_phases(engine: Engine, prompts: list[list[int]], tokens: int) -> Phases:
    """Let an idle engine continue all prompts greedily by `tokens` tokens each, and look at the clock.

    The engine must have room for all at once, and no stop ids: an answer that ends early ends the timing.
    """
    sampling = Sampling(max_tokens=tokens, temperature=0.0)
    start = time.perf_counter()
    unfinished = {engine.submit(prompt, sampling, streaming=True) for prompt in prompts}
    unstarted = set(unfinished)
    while unstarted:
        deltas = _step(engine)
        unstarted -= {delta.request for delta in deltas}
        unfinished -= {delta.request for delta in deltas if delta.completion}
    all_started = time.perf_counter()
    decoding, decoded = len(unfinished), 0
    while unfinished and len(unfinished) == decoding:
        deltas = _step(engine)
        decoded += sum(len(delta.ids) for delta in deltas)
        unfinished -= {delta.request for delta in deltas if delta.completion}
    first_ended = time.perf_counter()
    for request in unfinished:
        engine.cancel(request)
    return Phases(all_started - start, first_ended - all_started, decoded)


def _step(engine: Engine) -> list[Delta]:
    deltas = engine.step()
    for delta in deltas:
        if delta.error is not None:
            raise delta.error
    return deltas


def step_bytes(model: Transformer, batch: int, context: int) -> float:
    """Bytes that a decoding step of `batch` sequences at this context must read: all weights it multiplies
    by, and every sequence's keys and values."""
    config = model.config
    read = 0.0
    for name, tensor in model.state_dict().items():
        if name.startswith("model.embed_tokens") and not config.tie_word_embeddings:
            continue  # a look-up reads one row
        share = _experts_asked(config, batch) if ".experts." in name else 1.0
        read += share * tensor.numel() * tensor.element_size()
    per_position = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    return read + batch * context * per_position * torch.finfo(model.compute_dtype).bits / 8


def _experts_asked(config: ModelConfig, batch: int) -> float:
    """The share of experts that at least one of `batch` tokens goes to, if all are equally liked."""
    return 1 - (1 - config.num_experts_per_tok / config.num_experts) ** batch
