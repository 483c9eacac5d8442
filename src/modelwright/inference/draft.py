"""Guesses from a smaller model with the same tokenizer, which has a cache of its own (see speculate.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from modelwright.inference import sampling as draws
from modelwright.inference.blocks import SIZE, BlockPool, blocks_for
from modelwright.inference.penalties import Penalties
from modelwright.inference.runner import Piece, Runner
from modelwright.inference.scheduler import Sequence


@dataclass(slots=True)
class _Draft:
    """What the draft model's cache holds of a sequence: its first `computed` tokens, and then `guessed`."""

    blocks: list[int] = field(default_factory=list[int])
    computed: int = 0
    guessed: list[int] = field(default_factory=list[int])

    def recall(self, tokens: list[int]) -> None:
        """Some guesses have become tokens, the rest is not true; the last token is read in any case."""
        for guess in self.guessed:
            if self.computed == len(tokens) or tokens[self.computed] != guess:
                break
            self.computed += 1
        self.computed, self.guessed = min(self.computed, len(tokens) - 1), []


class DraftModel:
    """Continues sequences with the draft model, drawn as the request wants it drawn.

    `blocks` is how many the runner's cache has. A step reads at most `step_tokens` tokens of texts that it
    has not seen; who is not read yet gets no guesses.
    """

    def __init__(self, runner: Runner, blocks: int, vocab_size: int, step_tokens: int) -> None:
        self._runner, self._step_tokens = runner, step_tokens
        self._pool = BlockPool(blocks)
        self._drafts: dict[Sequence, _Draft] = {}
        self._columns = draws.Columns(vocab_size, str(runner.device), race=True)

    @torch.inference_mode()
    def propose(self, wanted: Mapping[Sequence, int]) -> dict[Sequence, list[int]]:
        """For each sequence so many tokens; none for those whose text is not read yet."""
        # Longest first: those who still guess in a later round are then the first rows.
        order = sorted(wanted, key=lambda sequence: -wanted[sequence])
        pieces, ready = self._unread(order, wanted)
        guesses: dict[Sequence, list[int]] = {sequence: [] for sequence in ready}
        if not pieces:
            return guesses
        logits = self._runner.logits(pieces)
        penalties = {each: each.penalties for each in ready}
        rows = ready
        for number in range(max(map(wanted.__getitem__, ready), default=0)):
            rows = [sequence for sequence in rows if wanted[sequence] > number]
            for sequence, token in zip(rows, self._draw(rows, logits, penalties, number), strict=True):
                guesses[sequence].append(token)
                if own := penalties[sequence]:
                    penalties[sequence] = own.ahead([token])[1]
            going_on = [sequence for sequence in rows if wanted[sequence] > number + 1]
            if going_on:
                logits = self._runner.logits([self._next(each, guesses[each]) for each in going_on])
        return guesses

    def _unread(
        self, order: list[Sequence], wanted: Mapping[Sequence, int]
    ) -> tuple[list[Piece], list[Sequence]]:
        """What is to be read of each sequence first, and those of whom that is all there is."""
        pieces: list[Piece] = []
        ready: list[Sequence] = []
        room = self._step_tokens
        for sequence in order:
            draft = self._drafts.setdefault(sequence, _Draft())
            draft.recall(sequence.tokens)
            start = draft.computed
            count = min(sequence.length - start, room)
            if not count or not self._make_room(draft, start + count + wanted[sequence], wanted):
                continue
            room -= count
            draft.computed = start + count
            whole = draft.computed == sequence.length
            pieces.append(Piece(sequence.tokens[start : start + count], start, draft.blocks, int(whole)))
            if whole:
                ready.append(sequence)
        return pieces, ready

    def _make_room(self, draft: _Draft, length: int, wanted: Mapping[Sequence, int]) -> bool:
        """Blocks for `length` positions; whoever does not guess now gives way."""
        while len(draft.blocks) < blocks_for(length):
            block = self._pool.allocate()
            if block is not None:
                draft.blocks.append(block)
                continue
            idle = next((each for each in self._drafts if each not in wanted), None)
            if idle is None:
                return False
            self.forget(idle)
        return True

    def _draw(
        self,
        rows: list[Sequence],
        logits: Tensor,
        penalties: Mapping[Sequence, Penalties | None],
        number: int,
    ) -> list[int]:
        """The `number`-th guess of each, with the random times that the model will draw with."""
        settings = self._columns.of(
            [row.sampling for row in rows], [row.seed for row in rows], [penalties[row] for row in rows]
        )
        counts = [len(row.ids) + number for row in rows]
        return draws.choose(logits[: len(rows)], replace(settings, listed=None), counts).ids

    def _next(self, sequence: Sequence, guesses: list[int]) -> Piece:
        """The last guess, to be read by the draft model itself."""
        draft = self._drafts[sequence]
        draft.guessed.append(guesses[-1])
        place = sequence.length + len(guesses) - 1
        assert place < len(draft.blocks) * SIZE
        return Piece([guesses[-1]], place, draft.blocks, 1)

    def forget(self, sequence: Sequence) -> None:
        """Give its blocks back."""
        draft = self._drafts.pop(sequence, None)
        if draft is not None:
            self._pool.release(reversed(draft.blocks))
