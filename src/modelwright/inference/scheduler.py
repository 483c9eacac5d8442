"""Who computes what in the next step. Plain Python: no tensor is touched here.

A step has room for some tokens. Sequences that decode come first, with one token each (more where some were
guessed); what is left reads prompts, of which a long one takes several steps, so that nobody who decodes
waits for it. A sequence that begins as another does that is being read waits for what they share, since a
block is found only once it is computed: of many equal prompts one is read. When the cache is full, the
sequence that came last gives its blocks back and is read again later: what it had drawn stays drawn.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Literal

from modelwright.base.schema import Sampling
from modelwright.inference.blocks import SIZE, BlockPool, Key, Node, blocks_for
from modelwright.inference.penalties import Penalties
from modelwright.inference.structured import Matcher
from modelwright.inference.text import TextStream

FinishReason = Literal["stop", "length", "cancelled"]
TopTokens = tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Timing:
    """When what happened to a request, in seconds of `time.monotonic`."""

    arrived: float
    admitted: float
    first_token: float
    ended: float
    cached_tokens: int
    """How much of the prompt was found in the cache."""


@dataclass(frozen=True, slots=True)
class EngineStats:
    """How busy an engine is, and what it has done since it was made. Counts of tokens but for the first
    two."""

    running: int
    waiting: int
    cache_usage: float
    """Share of the cache's blocks that somebody uses, 0 to 1."""
    prefix_queries: int
    """Tokens of prompts, and how many of these were found in the cache:"""
    prefix_hits: int
    prompt_tokens: int
    generation_tokens: int
    preemptions: int
    drafts: int = 0
    """How often guesses were looked at, how many these were, and how many of them were right:"""
    drafted: int = 0
    accepted: int = 0


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
    matcher: Matcher | None = None
    """What the answer has to keep to."""
    penalties: Penalties | None = None
    salt: str = ""
    """Blocks are shared among those with the same (see BlockPool.find)."""
    ids: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    sampler_logprobs: list[float] = field(default_factory=list[float])
    top: list[TopTokens] = field(default_factory=list[TopTokens])
    top_sampler: list[TopTokens] = field(default_factory=list[TopTokens])
    pieces: list[str] = field(default_factory=list[str])
    finish_reason: FinishReason | None = None
    tokens: list[int] = field(default_factory=list[int])
    """The prompt and what was drawn."""
    computed: int = 0
    """How many of the tokens have their keys and values in the cache."""
    blocks: list[int] = field(default_factory=list[int])
    node: Node = -1
    """What the full blocks that were made known hold (see BlockPool)."""
    known: int = 0
    """How many these are."""
    arrived: float = field(default_factory=time.monotonic)
    admitted: float = 0.0
    first_token: float = 0.0
    cached_tokens: int = 0
    doubted: bool = False
    """Whether what was computed for it was no number, once."""

    def __post_init__(self) -> None:
        self.tokens = [*self.prompt, *self.ids]

    @property
    def length(self) -> int:
        """Tokens so far, the prompt included."""
        return len(self.tokens)

    def next_full_block(self) -> Key | None:
        """What its next block to become known will hold, if that depends on no draw any more."""
        start = self.known * SIZE
        tokens = self.tokens[start : start + SIZE]
        return (self.node, tuple(tokens)) if len(tokens) == SIZE else None

    def accept(self, token: int, logprob: float, sampler_logprob: float = 0.0) -> str:
        """Take a drawn token; set the finish reason if it ends here; return the new text."""
        if not self.ids:
            self.first_token = time.monotonic()
        self.ids.append(token)
        self.tokens.append(token)
        self.logprobs.append(logprob)
        self.sampler_logprobs.append(sampler_logprob)
        if self.penalties is not None:
            self.penalties.add(token)
        piece = ""
        if token in self.stop_ids:
            self.finish_reason = "stop"
        elif self.text is not None:
            piece = self.text.push(token, may_stop=len(self.ids) >= self.sampling.min_tokens)
            if self.text.stopped:
                self.finish_reason = "stop"
        if self.matcher is not None:
            self.matcher.accept(token)
            if self.matcher.error and self.finish_reason is not None:
                self.finish_reason = "length"  # it was cut, not finished
        if self.finish_reason is None and len(self.ids) >= self.limit:
            self.finish_reason = "length"
        if self.text is not None:
            if self.finish_reason is not None:
                piece += self.text.end()
            self.pieces.append(piece)
        return piece

    def timing(self) -> Timing:
        """When what happened, for a request that ends now."""
        now = time.monotonic()
        return Timing(self.arrived, self.admitted or now, self.first_token or now, now, self.cached_tokens)


@dataclass(frozen=True, slots=True)
class Chunk:
    """What a step computes of a sequence: its tokens `start` to `start + count`."""

    sequence: Sequence
    start: int
    count: int
    guesses: tuple[int, ...] = ()
    """What may follow (speculative decoding), if it reaches the end: computed too, to be looked at."""

    @property
    def outputs(self) -> int:
        """After how many of its tokens one is drawn."""
        return int(self.draws) + len(self.guesses)

    @property
    def draws(self) -> bool:
        """Whether it reaches the end, so that the next token can be drawn."""
        return self.start + self.count == self.sequence.length


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why a sequence could not be admitted: it is not looked up again before any of this is better."""

    sequence: Sequence
    missing: Key | None
    available: int
    running: int


class Scheduler:
    """First come, first served, as long as the cache has room."""

    def __init__(self, pool: BlockPool, max_running: int, step_tokens: int) -> None:
        self.pool, self.max_running, self.step_tokens = pool, max_running, step_tokens
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.preemptions = 0
        self.prefix_queries = 0
        """Tokens of prompts that were looked up in the cache."""
        self.prefix_hits = 0
        """Of these, how many were found."""
        self._refused: _Refusal | None = None

    @property
    def busy(self) -> bool:
        """Whether anything waits or runs."""
        return bool(self.waiting or self.running)

    def add(self, sequence: Sequence) -> None:
        """Put a sequence at the end of the queue."""
        self.waiting.append(sequence)

    def plan(self, guesses: Mapping[Sequence, list[int]] | None = None) -> list[Chunk]:
        """What to compute now; every chunk's blocks are there. Of `guesses` as many as there is room for."""
        guesses = guesses or {}
        planned: list[tuple[Sequence, int, list[int]]] = []
        room = self.step_tokens
        number = 0
        # Who decodes comes first, whenever it came; a prompt that is being read takes what is left.
        order = sorted(self.running, key=lambda sequence: sequence.length - sequence.computed > 1)
        while number < len(order) and room:
            sequence = order[number]
            number += 1
            if sequence not in self.running:  # gave its blocks back to one before it
                continue
            count = min(sequence.length - sequence.computed, room)
            if self._make_room(sequence, sequence.computed + count):
                spare = room - count - (len(order) - number)  # one token for each who comes after
                guessed = guesses.get(sequence, [])[: max(spare, 0)]
                planned.append((sequence, count, guessed))
                room -= count + len(guessed)
        chunks = [  # blocks for guesses come after everybody's own: nobody gives way to a guess
            Chunk(sequence, sequence.computed, count, self._with_blocks(sequence, guessed))
            for sequence, count, guessed in planned
            if sequence.blocks
        ]
        room = self.step_tokens - sum(chunk.count + len(chunk.guesses) for chunk in chunks)
        return [*chunks, *self._begun(room)]

    def _begun(self, room: int) -> list[Chunk]:
        """The first chunks of those who are admitted now, of `room` tokens at most. Who follows another keeps
        its place in the queue, and the slot that it will have."""
        chunks: list[Chunk] = []
        if not self.waiting:
            return chunks
        being_read = {block for each in self.running if (block := each.next_full_block())}
        followers = 0
        while room and followers < len(self.waiting) and len(self.running) + followers < self.max_running:
            sequence = self.waiting[followers]
            admitted = self._admit(sequence, being_read)
            if admitted is None:
                followers += 1
                continue
            if not admitted:
                break
            del self.waiting[followers]
            self.running.append(sequence)
            count = min(sequence.length - sequence.computed, room)
            chunks.append(Chunk(sequence, sequence.computed, count))
            room -= count
            if block := sequence.next_full_block():
                being_read.add(block)
        return chunks

    def _admit(self, sequence: Sequence, being_read: AbstractSet[Key]) -> bool | None:
        """Give a waiting sequence the blocks for all its tokens, if enough stay for those who run to go
        on. None where the block that it lacks is among those that are `being_read` for others."""
        if self._is_refused_still(sequence):
            return False
        pool, available = self.pool, self.pool.available
        prefix = pool.find(sequence.tokens, sequence.sampling.adapter, sequence.salt)
        if prefix.missing in being_read:
            pool.release(reversed(prefix.blocks))
            return None
        missing = blocks_for(sequence.length) - len(prefix.blocks)
        if missing + len(self.running) > pool.available:
            pool.release(reversed(prefix.blocks))
            self._refused = _Refusal(sequence, prefix.missing, available, len(self.running))
            return False
        sequence.blocks, sequence.node, sequence.known = prefix.blocks, prefix.node, len(prefix.blocks)
        sequence.computed = len(prefix.blocks) * SIZE
        if not sequence.admitted:
            sequence.admitted, sequence.cached_tokens = time.monotonic(), sequence.computed
            self.prefix_queries += len(sequence.prompt)
            self.prefix_hits += sequence.computed
        assert self._make_room(sequence, sequence.length)
        return True

    def _is_refused_still(self, sequence: Sequence) -> bool:
        """Whether nothing has changed for the better since it was refused: as few blocks can be had, as many
        run, and what it lacked is not known. Looking a long prompt up in every step would cost time."""
        refused = self._refused
        if refused is None or refused.sequence is not sequence:
            return False
        found = refused.missing is not None and self.pool.knows(refused.missing)
        more = self.pool.available > refused.available or len(self.running) < refused.running
        return not (found or more)

    def _make_room(self, sequence: Sequence, length: int) -> bool:
        """Blocks for `length` positions; whoever came last pays where there are none, it itself if need
        be."""
        while len(sequence.blocks) < blocks_for(length):
            block = self.pool.allocate()
            if block is not None:
                sequence.blocks.append(block)
                continue
            victim = self.running[-1]
            self._preempt(victim)
            if victim is sequence:
                return False
        return True

    def _with_blocks(self, sequence: Sequence, guessed: list[int]) -> tuple[int, ...]:
        """As many of the guesses as there are blocks for."""
        while len(sequence.blocks) < blocks_for(sequence.length + len(guessed)):
            block = self.pool.allocate()
            if block is None:
                return tuple(guessed[: len(sequence.blocks) * SIZE - sequence.length])
            sequence.blocks.append(block)
        return tuple(guessed)

    def _preempt(self, sequence: Sequence) -> None:
        """Take the blocks of a running sequence; it waits again, before all others."""
        self.running.remove(sequence)
        self._release(sequence)
        self.waiting.appendleft(sequence)
        self.preemptions += 1

    def preempt_all(self) -> None:
        """Nothing that is in the cache counts any more: whoever runs begins again."""
        while self.running:
            self._preempt(self.running[-1])
        self.pool.forget()

    def computed(self, chunk: Chunk, right: int = 0) -> None:
        """A chunk's keys and values are in the cache, and of its guesses the first `right` were accepted.
        Blocks that are full now become known; those of wrong guesses are written again."""
        sequence = chunk.sequence
        sequence.computed = chunk.start + chunk.count + right
        while (sequence.known + 1) * SIZE <= sequence.computed:
            start = sequence.known * SIZE
            tokens = sequence.tokens[start : start + SIZE]
            sequence.node = self.pool.register(sequence.blocks[sequence.known], sequence.node, tokens)
            sequence.known += 1

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out."""
        if sequence in self.waiting:
            self.waiting.remove(sequence)
        else:
            self.running.remove(sequence)
            self._release(sequence)

    def _release(self, sequence: Sequence) -> None:
        self.pool.release(reversed(sequence.blocks))
        sequence.blocks = []
        sequence.computed = sequence.known = 0
