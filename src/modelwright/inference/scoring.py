"""How likely given texts are: many sequences in few passes, whatever their lengths.

Texts are read like prompts, into blocks that are kept for this alone, with the logits of every token wanted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modelwright.inference.blocks import blocks_for
from modelwright.inference.runner import Piece, Runner
from modelwright.inference.sampling import BrokenModel, TopTokens

MAX_LOGITS = 1 << 23
"""At most this many logits exist at a time (32 MiB in fp32): a vocabulary is wide."""
MAX_TOKENS = 2048
"""At most this many tokens go through the model in one pass."""


@dataclass(frozen=True, slots=True)
class Scored:
    """The log-probabilities (nats) of one sequence's ids from the second on, given those before."""

    logprobs: list[float]
    top: list[list[tuple[int, float]]]
    """The most likely (id, log-probability) pairs at each place; empty unless asked for."""


@torch.inference_mode()
def score(
    runner: Runner, scratch: Sequence[int], vocab_size: int, sequences: Sequence[Sequence[int]], top: int = 0
) -> list[Scored]:
    """Score every sequence, in `scratch` blocks; results are in the order given and do not depend on how
    sequences were grouped. `BrokenModel` where a number is none."""
    results = [Scored([], []) for _ in sequences]
    room = max(1, min(MAX_TOKENS, MAX_LOGITS // vocab_size))
    read = [ids[:-1] for ids in sequences]  # nobody asks what follows the last
    for numbers, pieces in passes(read, scratch, room):
        logits = runner.logits(pieces)
        pairs = list(zip(numbers, pieces, strict=True))
        targets = [token for n, piece in pairs for token in sequences[n][piece.start + 1 : piece.end + 1]]
        normaliser = logits.logsumexp(-1, keepdim=True)
        chosen = logits.gather(1, torch.tensor(targets, device=logits.device)[:, None]) - normaliser
        _check(chosen)
        alternatives = best_tokens(logits - normaliser, top) if top else []
        done = 0
        for number, piece in pairs:
            rows = slice(done, done + len(piece.ids))
            results[number].logprobs.extend(chosen[rows, 0].tolist())
            results[number].top.extend(alternatives[rows])
            done = rows.stop
    return results


@torch.inference_mode()
def embed(runner: Runner, scratch: Sequence[int], sequences: Sequence[Sequence[int]]) -> Tensor:
    """(n, D) fp32: the mean over each sequence's tokens of what the model holds after its last norm, of
    length 1. `BrokenModel` where a number is none."""
    sums: dict[int, Tensor] = {}
    for numbers, pieces in passes(sequences, scratch, MAX_TOKENS):
        parts = runner.hidden(pieces).split([len(piece.ids) for piece in pieces])
        for number, part in zip(numbers, parts, strict=True):
            total = part.sum(0)
            sums[number] = sums[number] + total if number in sums else total
    means = torch.stack([sums[number] for number in range(len(sequences))])
    _check(means)
    return torch.nn.functional.normalize(means, dim=-1)


def best_tokens(logprobs: Tensor, count: int) -> list[TopTokens]:
    """For each row of (N, V) the `count` most likely (id, log-probability) pairs, best first."""
    values, ids = logprobs.topk(min(count, logprobs.shape[-1]), dim=-1)
    pairs = zip(ids.tolist(), values.tolist(), strict=True)
    return [list(zip(row_ids, row_values, strict=True)) for row_ids, row_values in pairs]


def _check(found: Tensor) -> None:
    if not found.isfinite().all():
        raise BrokenModel()


def passes(
    sequences: Sequence[Sequence[int]], scratch: Sequence[int], room: int
) -> Iterator[tuple[list[int], list[Piece]]]:
    """The sequences cut into passes of at most `room` tokens, all of which are outputs: (whose, pieces).
    Those of like length come together; all parts of one follow each other."""
    order = sorted((n for n in range(len(sequences)) if sequences[n]), key=lambda n: len(sequences[n]))
    while order:
        group: list[int] = []
        free = list(scratch)
        places: dict[int, list[int]] = {}
        while order and blocks_for(len(sequences[order[0]])) <= len(free):
            number = order.pop(0)
            group.append(number)
            places[number] = [free.pop() for _ in range(blocks_for(len(sequences[number])))]
        assert group, "a sequence is longer than what there are blocks for"
        yield from _cut(sequences, group, places, room)


def _cut(
    sequences: Sequence[Sequence[int]], group: Sequence[int], places: dict[int, list[int]], room: int
) -> Iterator[tuple[list[int], list[Piece]]]:
    numbers: list[int] = []
    pieces: list[Piece] = []
    left = room
    for number in group:
        ids, start = sequences[number], 0
        while start < len(ids):
            part = ids[start : start + left]
            numbers.append(number)
            pieces.append(Piece(part, start, places[number], outputs=len(part)))
            start, left = start + len(part), left - len(part)
            if not left:
                yield numbers, pieces
                numbers, pieces, left = [], [], room
    if pieces:
        yield numbers, pieces
