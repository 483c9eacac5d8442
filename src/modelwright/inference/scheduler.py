"""Who runs, in which row, until when. Plain Python: no tensor is touched here.

Running sequences fill the rows 0 .. n-1 without holes, so that decoding works on plain slices of the
cache. When one leaves, the last takes its row.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from modelwright.base.schema import Sampling
from modelwright.inference.text import TextStream

FinishReason = Literal["stop", "length", "cancelled"]
TopTokens = tuple[tuple[int, float], ...]


@dataclass(slots=True, eq=False)
class Sequence:
    """One request while it lives."""

    id: int
    prompt: tuple[int, ...]
    sampling: Sampling
    seed: int
    stop_ids: frozenset[int]
    limit: int
    """How many tokens it may draw: its own wish or what the context leaves, whichever is less."""
    streaming: bool = False
    text: TextStream | None = None
    """Kept only by those who need text while they run: streams, and requests with stop strings."""
    ids: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    top: list[TopTokens] = field(default_factory=list[TopTokens])
    pieces: list[str] = field(default_factory=list[str])
    finish_reason: FinishReason | None = None

    @property
    def length(self) -> int:
        """Tokens so far, the prompt included."""
        return len(self.prompt) + len(self.ids)

    def accept(self, token: int, logprob: float) -> str:
        """Take a drawn token; set the finish reason if it ends here; return the new text."""
        self.ids.append(token)
        self.logprobs.append(logprob)
        piece = ""
        if token in self.stop_ids:
            self.finish_reason = "stop"
        elif self.text is not None:
            piece = self.text.push(token)
            if self.text.stopped:
                self.finish_reason = "stop"
        if self.finish_reason is None and len(self.ids) >= self.limit:
            self.finish_reason = "length"
        if self.text is not None:
            if self.finish_reason is not None:
                piece += self.text.end()
            self.pieces.append(piece)
        return piece


@dataclass(frozen=True, slots=True)
class Move:
    """The cache row `source` takes the place of `target`; equal rows mean that nothing moves."""

    source: int
    target: int


class Scheduler:
    """Admits waiting sequences into free rows, first come first served."""

    def __init__(self, max_slots: int, prefill_tokens: int = 8192) -> None:
        self.max_slots = max_slots
        self.prefill_tokens = prefill_tokens
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []

    @property
    def busy(self) -> bool:
        """Whether anything waits or runs."""
        return bool(self.waiting or self.running)

    def add(self, sequence: Sequence) -> None:
        """Put a sequence at the end of the queue."""
        self.waiting.append(sequence)

    def admit(self) -> list[Sequence]:
        """The sequences to prefill now; they have been given the rows after those running.

        A prefill holds up everybody who is decoding, so a crowd is let in together: while more wait
        than there is room for, one batch in eight slots must be free. The padded size of a group is
        bounded by `prefill_tokens`; a longer prompt comes alone.
        """
        free = self.max_slots - len(self.running)
        crowd = len(self.waiting) > free
        if not self.waiting or not free or (crowd and free * 8 < self.max_slots):
            return []
        group: list[Sequence] = []
        longest = 0
        while self.waiting and len(group) < free:
            longest = max(longest, len(self.waiting[0].prompt))
            if group and longest * (len(group) + 1) > self.prefill_tokens:
                break
            group.append(self.waiting.popleft())
        self.running.extend(group)
        return group

    def remove(self, sequence: Sequence) -> Move | None:
        """Take a sequence out; the move its row needs, or None if it was still waiting."""
        if sequence in self.waiting:
            self.waiting.remove(sequence)
            return None
        row = self.running.index(sequence)
        last = self.running.pop()
        if last is not sequence:
            self.running[row] = last
        return Move(source=len(self.running), target=row)
