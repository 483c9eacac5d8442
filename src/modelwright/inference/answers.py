"""From a step's logits to answers: tokens drawn for its rows, and what those who asked are told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from modelwright.base.schema import Completion
from modelwright.inference import sampling as draws
from modelwright.inference import scheduler as schedule
from modelwright.inference.penalties import Penalties
from modelwright.inference.text import ByteTokenizer, text_of


@dataclass(frozen=True, slots=True)
class Delta:
    """What a step brought to one request: one for each token to streams, to others only the last."""

    request: int
    text: str = ""
    """New text; may lag behind the tokens while a character or a stop string is incomplete."""
    ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    """Under the model, with alternatives where asked for; then under what the tokens were drawn from."""
    top_logprobs: tuple[schedule.TopTokens, ...] = ()
    sampler_logprobs: tuple[float, ...] = ()
    top_sampler_logprobs: tuple[schedule.TopTokens, ...] = ()
    completion: Completion | None = None
    """The whole answer, when this is the end of it."""
    timing: schedule.Timing | None = None
    """When what happened, when this is the end of it."""
    error: Exception | None = None
    """Why it failed, where this is the end of it without an answer."""


def draw_rows(chunks: Sequence[schedule.Chunk], logits: Tensor, columns: draws.Columns) -> draws.Choice:
    """A token for each row of `logits` (outputs of all chunks, V): one after a chunk's last token, and one
    after each of its guesses, drawn as if the guesses up to there had been accepted."""
    rows: list[schedule.Sequence] = []
    counts: list[int] = []
    penalties: list[Penalties | None] = []
    masks: dict[int, Tensor] = {}
    barred: dict[int, list[int]] = {}
    for chunk in chunks:
        sequence = chunk.sequence
        too_few = range(sequence.sampling.min_tokens - len(sequence.ids))  # drawn, that it may end
        barred |= {len(rows) + row: [*sequence.stop_ids] for row in too_few[: chunk.outputs]}
        if sequence.matcher is not None:  # nobody guesses what it will allow (inference/speculate.py)
            masks[len(rows)] = sequence.matcher.allowed()
        rows += [sequence] * chunk.outputs
        counts += range(len(sequence.ids), len(sequence.ids) + chunk.outputs)
        own = sequence.penalties
        penalties += [None] * chunk.outputs if own is None else own.ahead(chunk.guesses)
    settings = columns.of([row.sampling for row in rows], [row.seed for row in rows], penalties)
    return draws.choose(logits, settings, counts, masks, barred)


def completion_of(sequence: schedule.Sequence, tokenizer: ByteTokenizer, version: int) -> Completion:
    """The whole answer of a sequence that has ended."""
    assert sequence.finish_reason is not None
    if sequence.text is None:
        by_id = sequence.finish_reason == "stop"  # stop strings would have needed the text
        text = text_of(tokenizer, sequence.ids[:-1] if by_id else sequence.ids)
    else:
        if sequence.finish_reason == "cancelled":
            sequence.pieces.append(sequence.text.end())
        text = "".join(sequence.pieces)
    return Completion(
        ids=tuple(sequence.ids),
        logprobs=tuple(sequence.logprobs),
        text=text,
        finish_reason=sequence.finish_reason,
        policy_version=version,
        top_logprobs=tuple(sequence.top),
        sampler_logprobs=tuple(sequence.sampler_logprobs),
        top_sampler_logprobs=tuple(sequence.top_sampler),
    )
