"""What a model finds likely: bits per byte of a text, and which of several continuations it prefers.

Bits per byte = nats of the counted tokens / (ln 2 * bytes of the counted tokens). It is the one measure
that is fair between vocabularies of different sizes. Nats and bytes are summed apart and divided
once, so a short document weighs what it holds. Special tokens stand for no bytes: they are context,
and count in neither sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from modelwright.base.seams import Output, Sampler
from modelwright.evaluation.statistics import Interval, t_interval

ROWS_PER_BATCH = 8
POSITIONS_PER_CHUNK, LOGITS_PER_CHUNK = 1024, 1 << 24
"""Positions whose logits exist at one time, and how many logits these may be, 64 MiB in fp32: a vocabulary of
5,000 needs 20 MB for 1,024 positions, one of 150,000 is read 111 positions at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BitsPerByte:
    """The total over all documents, and the interval of it over documents."""

    value: float
    low: float
    high: float
    documents: int
    tokens: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Window:
    document: int
    begin: int
    ids: Sequence[int]


def bits_per_byte(
    model: Callable[[torch.Tensor], Output],
    documents: Iterable[Sequence[int]],
    byte_lengths: Sequence[int],
    *,
    max_tokens: int,
    window: int,
    device: str = "cpu",
) -> BitsPerByte:
    """Score whole documents, in order, until `max_tokens` tokens were read.

    Each document is read alone, as attention does in training. Its first token has nothing before it:
    it is context, and counts in neither sum. A document longer than `window` tokens is cut, and each
    piece is read with no more of the one before it than its last token.
    `byte_lengths[id]` is how many bytes of text a token stands for, 0 for special tokens. The interval
    is that of a ratio of two sums over documents (the delta method), 95 %.
    """
    pairs, tokens = sums_by_document(
        model, documents, byte_lengths, max_tokens=max_tokens, window=window, device=device
    )
    return _ratio(pairs, tokens)


def sums_by_document(
    model: Callable[[torch.Tensor], Output],
    documents: Iterable[Sequence[int]],
    byte_lengths: Sequence[int],
    *,
    max_tokens: int,
    window: int,
    device: str = "cpu",
    by_window: bool = False,
) -> tuple[list[tuple[float, float]], int]:
    """(nats, bytes) of each document that holds text, in their order, and how many tokens were scored: what
    `bits_per_byte` adds up. With `by_window`, of each piece of a document."""
    sums: dict[tuple[int, int], list[float]] = {}
    tokens = 0
    batches = list(_batches(_windows(documents, max_tokens, window)))
    for piece, piece_nats, piece_bytes in _scored(model, batches, byte_lengths, device):
        tokens += len(piece.ids) - 1
        total = sums.setdefault((piece.document, piece.begin if by_window else 0), [0.0, 0.0])
        total[0] += piece_nats
        total[1] += piece_bytes
    pairs = [(nats, size) for _, (nats, size) in sorted(sums.items()) if size]
    if not pairs:
        raise ValueError("bits_per_byte got no document with text in it.")
    return pairs, tokens


def part_of_sums(
    model: Callable[[torch.Tensor], Output],
    documents: Iterable[Sequence[int]],
    byte_lengths: Sequence[int],
    *,
    max_tokens: int,
    window: int,
    device: str = "cpu",
    place: int = 0,
    of: int = 1,
) -> dict[str, float]:
    """{"nats", "bytes"} of what `bits_per_byte` scores, as far as it falls to process `place` of `of` that
    hold the model together. All of them run it equally often: who has no batch left runs on the first one,
    which does not count."""
    batches = list(_batches(_windows(documents, max_tokens, window)))
    if not batches:
        raise ValueError("part_of_sums got no document of two tokens or more.")
    turns = range(place, -(-len(batches) // of) * of, of)
    run = [batches[turn if turn < len(batches) else 0] for turn in turns]
    counted = sum(len(batch) for batch, turn in zip(run, turns, strict=True) if turn < len(batches))
    scored = list(_scored(model, run, byte_lengths, device))[:counted]
    return {"nats": math.fsum(nats for _, nats, _ in scored), "bytes": sum(size for _, _, size in scored)}


def _scored(
    model: Callable[[torch.Tensor], Output],
    batches: Iterable[Sequence[_Window]],
    byte_lengths: Sequence[int],
    device: str,
) -> Iterator[tuple[_Window, float, float]]:
    """Each window with its nats and bytes."""
    lengths = torch.tensor(byte_lengths, dtype=torch.float64)
    for batch in batches:
        yield from zip(batch, *_score_windows(model, batch, lengths, device), strict=True)


def _windows(documents: Iterable[Sequence[int]], max_tokens: int, window: int) -> Iterator[_Window]:
    read = 0
    for number, document in enumerate(documents):
        for begin in range(0, len(document) - 1, window - 1):
            piece = document[begin : begin + window]
            yield _Window(document=number, begin=begin, ids=piece)
            read += len(piece) - 1
        if read >= max_tokens:
            return


def _batches(windows: Iterable[_Window]) -> Iterator[list[_Window]]:
    """Windows of like length together, so that little is computed on padding."""
    ordered = sorted(windows, key=lambda piece: len(piece.ids))
    for begin in range(0, len(ordered), ROWS_PER_BATCH):
        yield ordered[begin : begin + ROWS_PER_BATCH]


@torch.no_grad()
def _score_windows(
    model: Callable[[torch.Tensor], Output], batch: Sequence[_Window], lengths: torch.Tensor, device: str
) -> tuple[list[float], list[float]]:
    """Nats and bytes of each window. Padding stands right of the text, where causal attention never
    looks from the text, and counts zero bytes."""
    longest = max(len(piece.ids) for piece in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.int64)
    sizes = torch.zeros(len(batch), longest - 1, dtype=torch.float64)
    for row, piece in enumerate(batch):
        ids[row, : len(piece.ids)] = torch.as_tensor(piece.ids)
        sizes[row, : len(piece.ids) - 1] = lengths[ids[row, 1 : len(piece.ids)]]
    targets = ids[:, 1:].to(device)
    output = model(ids[:, :-1].to(device))
    losses = _token_losses(output, targets).reshape(targets.shape).double().cpu()
    return (losses * (sizes > 0)).sum(1).tolist(), sizes.sum(1).tolist()


def _token_losses(output: Output, targets: torch.Tensor) -> torch.Tensor:
    """(B * T,) nats in fp32, with logits for a slice of positions at a time."""
    hidden = output.hidden.reshape(-1, output.hidden.shape[-1])
    head = output.head.to(hidden.dtype)
    flat = targets.reshape(-1)
    size = max(1, min(POSITIONS_PER_CHUNK, LOGITS_PER_CHUNK // len(head)))
    return torch.cat(
        [
            F.cross_entropy((hidden[i : i + size] @ head.T).float(), flat[i : i + size], reduction="none")
            for i in range(0, len(flat), size)
        ]
    )


def _ratio(pairs: Sequence[tuple[float, float]], tokens: int) -> BitsPerByte:
    """sum(nats) / sum(bytes) in bits; its spread is that of the residuals nats - ratio * bytes."""
    nats, size = sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)
    value = nats / size
    residuals = [(pair[0] - value * pair[1]) * len(pairs) / size for pair in pairs]
    half = t_interval(residuals).high if len(pairs) > 1 else 0.0
    bits = math.log(2)
    return BitsPerByte(
        value=value / bits,
        low=max(0.0, (value - half) / bits),
        high=(value + half) / bits,
        documents=len(pairs),
        tokens=tokens,
        bytes=int(size),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceScore:
    """How a model ranks the continuations of one prompt."""

    log_likelihoods: tuple[float, ...]
    """Nats of each choice, whole."""
    per_byte: tuple[float, ...]
    """Nats per byte: without this, the shortest choice tends to win."""

    @property
    def best(self) -> int:
        """The choice with the highest likelihood per byte (the first of equals)."""
        return max(range(len(self.per_byte)), key=self.per_byte.__getitem__)

    @property
    def best_plain(self) -> int:
        """The choice with the highest likelihood, whatever its length."""
        return max(range(len(self.log_likelihoods)), key=self.log_likelihoods.__getitem__)


def score_choices(
    sampler: Sampler,
    prompts: Sequence[Sequence[int]],
    choices: Sequence[Sequence[str]],
    encode: Callable[[str], list[int]],
) -> list[ChoiceScore]:
    """For each prompt (ids, at least one), the likelihood of each of its choices (texts).

    Prompt and choice are encoded apart and joined, so the border between them is a border of tokens.
    """
    rows = [(i, text, encode(text)) for i, texts in enumerate(choices) for text in texts]
    if any(not ids for _, _, ids in rows) or not all(prompts):
        raise ValueError("score_choices needs at least one token in every prompt and every choice.")
    scored = sampler.score([[*prompts[i], *ids] for i, _, ids in rows])
    totals: list[list[tuple[float, int]]] = [[] for _ in prompts]
    for (i, text, ids), logprobs in zip(rows, scored, strict=True):
        totals[i].append((math.fsum(logprobs[-len(ids) :]), len(text.encode())))
    return [
        ChoiceScore(
            log_likelihoods=tuple(nats for nats, _ in row),
            per_byte=tuple(nats / size for nats, size in row),
        )
        for row in totals
    ]


def as_interval(found: BitsPerByte) -> Interval:
    """Bits per byte in the shape of the other results; n counts documents."""
    return Interval(mean=found.value, low=found.low, high=found.high, n=found.documents)
