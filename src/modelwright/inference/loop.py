"""The decoding loop: compute what the scheduler planned, draw a token for everybody who is at the end of what
is known, take out who is done.

Requests in a step have nothing to do with each other but the time that they share, so one that fails ends
alone. A step that raises is tried again in halves, down to the request with which it fails by itself; each
half needs less memory, too. Numbers that are none are another matter: they would stay in the cache and
reach whoever gets their block next. Where some come out, the cache is emptied, and everybody is read again;
the request in whose place they stood has failed when that happens to it a second time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from modelwright.base.schema import Completion
from modelwright.inference import sampling as draws
from modelwright.inference import scheduler as schedule
from modelwright.inference.answers import Delta, completion_of, draw_rows
from modelwright.inference.runner import Piece, Runner
from modelwright.inference.speculate import Speculator
from modelwright.inference.text import ByteTokenizer

C = TypeVar("C")
T = TypeVar("T")


def in_parts(
    items: Sequence[C], work: Callable[[Sequence[C]], T]
) -> Iterator[tuple[Sequence[C], T | Exception]]:
    """What `work` makes of all items together, as a rule. Where it raises: of their halves, and so on down to
    single items, with the exception for those with which it fails alone."""
    outcome = _tried(work, items)
    if isinstance(outcome, Exception) and len(items) > 1:
        del outcome  # its traceback holds what the failed step had allocated
        middle = len(items) // 2
        yield from in_parts(items[:middle], work)
        yield from in_parts(items[middle:], work)
    else:
        yield items, outcome


def _tried(work: Callable[[Sequence[C]], T], items: Sequence[C]) -> T | Exception:
    try:
        return work(items)
    except Exception as error:
        return error


class Loop:
    """Who is being answered, and the step that brings all of them further."""

    def __init__(
        self,
        scheduler: schedule.Scheduler,
        runner: Runner,
        columns: draws.Columns,
        tokenizer: ByteTokenizer,
        speculator: Speculator | None,
    ) -> None:
        self._scheduler, self._runner, self._columns = scheduler, runner, columns
        self._tokenizer, self._speculator = tokenizer, speculator
        self._spoiled = False
        """Whether a number that is none was found, so that nothing in the cache counts."""
        self.policy_version = 0
        """Of the weights; every completion carries it."""
        self.prompt_tokens = self.generation_tokens = 0
        """Read and drawn so far."""

    def step(self) -> list[Delta]:
        """Compute what the scheduler planned; what it brought to those who stream, have ended or failed."""
        guesses = self._speculator.guesses(self._scheduler.running) if self._speculator else {}
        chunks = self._scheduler.plan(guesses)
        deltas: list[Delta] = []
        for part, choice in in_parts(chunks, self._compute) if chunks else ():
            if isinstance(choice, Exception):
                deltas.append(self._fail(part[0].sequence, choice))
            else:
                deltas += self._accept(part, choice)
        if self._spoiled:
            self._scheduler.preempt_all()
            self._runner.clear()
            self._spoiled = False
        return deltas

    def remove(self, sequence: schedule.Sequence) -> None:
        """Take a sequence out, and give its blocks back."""
        self._scheduler.remove(sequence)
        if self._speculator is not None:
            self._speculator.forget(sequence)

    def completion(self, sequence: schedule.Sequence) -> Completion:
        """The whole answer of a sequence that has ended."""
        return completion_of(sequence, self._tokenizer, self.policy_version)

    @torch.inference_mode()
    def _compute(self, chunks: Sequence[schedule.Chunk]) -> draws.Choice | None:
        """Keys, values and logits of some chunks, and what is drawn from these; None where nothing is. It may
        be done again: it writes the same to the same places."""
        start = time.perf_counter()
        logits = self._runner.logits([_piece(chunk) for chunk in chunks])
        drawing = [chunk for chunk in chunks if chunk.draws]
        choice = draw_rows(drawing, logits, self._columns) if drawing else None
        if self._speculator is not None:
            self._speculator.timed(chunks, time.perf_counter() - start)
        return choice

    def _accept(self, chunks: Sequence[schedule.Chunk], choice: draws.Choice | None) -> list[Delta]:
        """Give the chunks' sequences what was drawn, and let go of those that end."""
        deltas: list[Delta] = []
        row = 0
        for chunk in chunks:
            rows = range(row, row + chunk.outputs)
            row = rows.stop
            if not chunk.draws:
                self._scheduler.computed(chunk)
                continue
            try:
                deltas += self._take(chunk, choice, rows) if choice is not None else []
            except Exception as error:
                deltas.append(self._fail(chunk.sequence, error))
        return deltas

    def _take(self, chunk: schedule.Chunk, choice: draws.Choice, rows: range) -> list[Delta]:
        """A chunk's sequence takes what was drawn, as far as its guesses were right."""
        sequence = chunk.sequence
        deltas: list[Delta] = []
        right = 0
        for row in rows:
            if fault := choice.fault(row):
                return [*deltas, *self._doubt(sequence, fault)]
            if not sequence.ids:
                self.prompt_tokens += len(sequence.prompt)
            piece = sequence.accept(choice.ids[row], choice.logprobs[row], choice.sampler_logprobs[row])
            self.generation_tokens += 1
            if choice.top is not None and choice.top_sampler is not None and sequence.sampling.top_logprobs:
                sequence.top.append(tuple(choice.top[row]))
                sequence.top_sampler.append(tuple(choice.top_sampler[row]))
            if sequence.streaming or sequence.finish_reason is not None:
                deltas.append(self._delta(sequence, piece))
            if right == len(chunk.guesses) or chunk.guesses[right] != choice.ids[row]:
                break
            right += 1
            if sequence.finish_reason is not None:
                break
        self._scheduler.computed(chunk, right)
        if self._speculator is not None and chunk.guesses:
            self._speculator.learn(sequence, len(chunk.guesses), right)
        if sequence.finish_reason is not None:
            self.remove(sequence)
        return deltas

    def _doubt(self, sequence: schedule.Sequence, fault: Exception) -> list[Delta]:
        """Nothing could be drawn for a sequence. Numbers that are none may be another's: it is read again,
        once, from an empty cache."""
        if isinstance(fault, draws.BrokenModel):
            self._spoiled = True
            if not sequence.doubted:
                sequence.doubted = True
                return []
        return [self._fail(sequence, fault)]

    def _fail(self, sequence: schedule.Sequence, error: Exception) -> Delta:
        """A sequence that ends without an answer."""
        self.remove(sequence)
        return Delta(sequence.id, error=error)

    def _delta(self, sequence: schedule.Sequence, piece: str) -> Delta:
        ended = sequence.finish_reason is not None
        return Delta(
            request=sequence.id,
            text=piece,
            ids=tuple(sequence.ids[-1:]),
            logprobs=tuple(sequence.logprobs[-1:]),
            top_logprobs=tuple(sequence.top[-1:]),
            sampler_logprobs=tuple(sequence.sampler_logprobs[-1:]),
            top_sampler_logprobs=tuple(sequence.top_sampler[-1:]),
            completion=self.completion(sequence) if ended else None,
            timing=sequence.timing() if ended else None,
        )


def _piece(chunk: schedule.Chunk) -> Piece:
    """A chunk as the runner takes it."""
    sequence = chunk.sequence
    return Piece(
        [*sequence.tokens[chunk.start : chunk.start + chunk.count], *chunk.guesses],
        chunk.start,
        sequence.blocks,
        outputs=chunk.outputs,
        adapter=sequence.sampling.adapter,
    )
