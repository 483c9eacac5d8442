"""How likely given texts are: many sequences in few passes, whatever their lengths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modelwright.inference.runner import Runner
from modelwright.inference.sampling import best_tokens
from modelwright.model.transformer import ModelOutput

MAX_LOGITS = 1 << 23
"""At most this many logits exist at a time (32 MiB in fp32): a vocabulary is wide."""
MAX_TOKENS = 4096
"""At most this many padded tokens go through the model in one pass."""


@dataclass(frozen=True, slots=True)
class Scored:
    """The log-probabilities (nats) of one sequence's ids from the second on, given those before."""

    logprobs: list[float]
    top: list[list[tuple[int, float]]]
    """The most likely (id, log-probability) pairs at each place; empty unless asked for."""


@torch.inference_mode()
def score(runner: Runner, sequences: Sequence[Sequence[int]], top: int = 0) -> list[Scored]:
    """Score every sequence; results are in the order given and do not depend on the grouping."""
    results = [Scored([], []) for _ in sequences]
    for group in _groups(sequences):
        head, hidden = runner.hidden([sequences[index] for index in group])
        targets = [token for index in group for token in sequences[index][1:]]
        scored = _against(torch.cat(hidden), head, torch.tensor(targets, device=runner.device), top)
        for index in group:
            count = len(sequences[index]) - 1
            results[index] = Scored(scored.logprobs[:count], scored.top[:count])
            del scored.logprobs[:count], scored.top[:count]
    return results


def _groups(sequences: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Indices of sequences of like length, each group small enough for one pass."""
    group: list[int] = []
    for index in sorted(range(len(sequences)), key=lambda i: len(sequences[i])):
        if len(sequences[index]) < 2:
            continue
        if group and len(sequences[index]) * (len(group) + 1) > MAX_TOKENS:
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def _against(hidden: Tensor, head: Tensor, targets: Tensor, top: int) -> Scored:
    """Score N targets (N,) from N hidden states (N, D), a slice at a time."""
    rows = max(1, MAX_LOGITS // head.shape[0])
    scored = Scored([], [])
    for some, wanted in zip(hidden.split(rows), targets.split(rows), strict=True):
        logits = ModelOutput(hidden=some[None], head=head).logits()[0]
        normaliser = logits.logsumexp(-1, keepdim=True)
        scored.logprobs.extend((logits.gather(1, wanted[:, None]) - normaliser)[:, 0].tolist())
        if top:
            scored.top.extend(best_tokens(logits - normaliser, top))
    return scored
