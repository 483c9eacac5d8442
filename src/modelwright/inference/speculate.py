"""Speculative decoding (arXiv 2211.17192, 2302.01318): tokens are guessed cheaply, and the model looks at
all guesses in one step, which costs little more than a step for one token as long as reading weights bounds
it.

The model draws its own token at each place, with the number that the request's stream has for that place. A
guess is right where it is what was drawn; what was drawn behind the first wrong one is dropped. So a text is
what it would be without guesses, token for token and seed for seed, whatever was guessed, how much of it,
and who else was in the batch. A guess x is accepted with its probability p(x), which is the most that is
possible for one that was not drawn at random. A draft model draws its guesses, with the same random times as
the model will (`race` in kernels/draw.py), because two models seldom agree on a draw by one number for all
tokens: in flat distributions each token's place in the cumulative sum shifts.

Guesses come where they pay: no more than the share of right ones makes worth what they cost, which is
measured (pace.py), none in a crowded step, and none for structured answers.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from modelwright.base.errors import UserError
from modelwright.inference.pace import Pace
from modelwright.inference.scheduler import Chunk, Sequence
from modelwright.inference.text import ByteTokenizer
from modelwright.model.transformer import Transformer

FIRST_HOPE = 0.7
"""The share of right guesses that the first sequence is believed to have."""
LEARNED = 0.1
"""How much one guess changes that belief, and each sequence that of the next one; and how much of it returns
with each step in which guesses do not pay:"""
FORGOTTEN = 1 / 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Speculation:
    """How an engine guesses: by looking up what followed before ("ngram") or with a smaller model."""

    kind: Literal["ngram", "draft"] = "ngram"
    tokens: int = 8
    """Guesses for one sequence and step, at most."""
    rows: int = 16
    """Tokens that a step with guesses computes for those who decode, at most."""
    n: int = 3
    """How long an ending is looked up, at most ("ngram")."""
    draft: Transformer | None = None
    draft_tokenizer: ByteTokenizer | None = None

    @classmethod
    def of(
        cls,
        wish: str | None,
        tokens: int | None,
        open_draft: Callable[[str], tuple[Transformer, ByteTokenizer]],
    ) -> Speculation | None:
        """What a user wishes for: "ngram", the path of a draft model, or nothing; with so many guesses."""
        if wish is None:
            if tokens is not None:
                raise UserError(f"{tokens} guesses are asked for, and nothing to guess with: add --speculate")
            return None
        settings = cls()
        if wish != "ngram":
            draft, tokenizer = open_draft(wish)
            settings = cls(kind="draft", draft=draft, draft_tokenizer=tokenizer)
        if tokens is None:
            return settings
        return replace(settings, tokens=tokens, rows=max(settings.rows, tokens + 1))

    def __post_init__(self) -> None:
        for name, value in (("tokens", self.tokens), ("rows", self.rows), ("n", self.n)):
            if value < 1:
                raise UserError(f"speculation: {name} is {value}, expected at least 1")
        if (self.kind == "draft") != (self.draft is not None and self.draft_tokenizer is not None):
            raise UserError('speculation: "draft" needs a draft model with its tokenizer, "ngram" takes none')


def check_draft(settings: Speculation, model: Transformer, tokenizer: ByteTokenizer, length: int) -> None:
    """Refuse a draft model to which ids mean something else, or that does not read texts of `length`."""
    draft, own = settings.draft, settings.draft_tokenizer
    assert draft is not None and own is not None
    if draft.config.vocab_size != model.config.vocab_size:
        raise UserError(
            f"the draft model has {draft.config.vocab_size:,} tokens, the model {model.config.vocab_size:,}"
        )
    if draft.config.max_position_embeddings < length:
        raise UserError(
            f"the draft model reads {draft.config.max_position_embeddings} tokens at most, expected {length}"
        )
    same = own.vocab_size == tokenizer.vocab_size and dict(own.special_ids) == dict(tokenizer.special_ids)
    if not same or any(
        own.token_bytes(token) != tokenizer.token_bytes(token) for token in range(own.vocab_size)
    ):
        raise UserError("the draft model has another tokenizer than the model")


class Proposer(Protocol):
    """Where guesses come from."""

    def propose(self, wanted: Mapping[Sequence, int]) -> dict[Sequence, list[int]]:
        """For each sequence at most so many tokens that may follow."""
        ...

    def forget(self, sequence: Sequence) -> None:
        """A sequence has ended."""
        ...


class NGram:
    """Prompt lookup: what followed the last time that the text had the ending that it has now."""

    def __init__(self, n: int) -> None:
        self._lengths = range(n, min(2, n) - 1, -1)
        self._seen: dict[Sequence, tuple[int, dict[tuple[int, ...], int]]] = {}
        """Tokens looked at, and for each run of up to n tokens where its last occurrence ends."""

    def propose(self, wanted: Mapping[Sequence, int]) -> dict[Sequence, list[int]]:
        """Of the longest ending that occurred before, what followed it."""
        found = {sequence: self._continue(sequence, count) for sequence, count in wanted.items()}
        return {sequence: guess for sequence, guess in found.items() if guess}

    def _continue(self, sequence: Sequence, count: int) -> list[int]:
        tokens = sequence.tokens
        ends = self._index(sequence)
        for length in self._lengths:
            place = ends.get(tuple(tokens[-length:])) if length <= len(tokens) else None
            if place is not None:
                known = tokens[place:]
                while len(known) < count:  # it runs into the ending itself: the text goes in circles
                    known += known[: count - len(known)]
                return known[:count]
        return []

    def _index(self, sequence: Sequence) -> dict[tuple[int, ...], int]:
        """Where runs of tokens end, but for those that end now: nothing has followed them."""
        tokens = sequence.tokens
        done, ends = self._seen.get(sequence, (0, {}))
        for end in range(done + 1, len(tokens)):
            for length in self._lengths:
                if length <= end:
                    ends[tuple(tokens[end - length : end])] = end
        self._seen[sequence] = max(done, len(tokens) - 1), ends
        return ends

    def forget(self, sequence: Sequence) -> None:
        """Drop its index."""
        self._seen.pop(sequence, None)


class Speculator:
    """Decides how much is guessed, and counts how much of it was right."""

    def __init__(self, settings: Speculation, proposer: Proposer) -> None:
        self._settings, self._proposer = settings, proposer
        self._first, self._hope = FIRST_HOPE, dict[Sequence, float]()
        """The share of right guesses of late: of sequences that have ended, and of each that has not."""
        self._pace, self._seconds = Pace(), 0.0
        """What guesses cost; how long those for the next step took to be made."""
        self._known, self._failed = set[Sequence](), False
        """Sequences for which guesses were made; and whether none is made any more."""
        self.drafts = self.drafted = self.accepted = 0

    def guesses(self, running: Iterable[Sequence]) -> dict[Sequence, list[int]]:
        """What may follow, for sequences that decode in the next step."""
        if self._failed:
            return {}
        decoding = [each for each in running if each.ids and each.length - each.computed == 1]
        room = self._settings.rows // max(len(decoding), 1) - 1
        cost, self._seconds = self._pace.cost(len(decoding)), 0.0
        if self._pace.compares(len(decoding)):
            return {}
        wanted: dict[Sequence, int] = {}
        for sequence in decoding:
            left = sequence.limit - len(sequence.ids) - 1  # one more is drawn after the guesses
            count = min(room, left, self._settings.tokens, self._worth(sequence, cost))
            if count > 0 and sequence.matcher is None:
                wanted[sequence] = count
        return self._proposed(wanted) if wanted else {}

    def _proposed(self, wanted: Mapping[Sequence, int]) -> dict[Sequence, list[int]]:
        """Guesses only help, so nobody fails for want of them; a proposer that fails is not asked again."""
        start = time.perf_counter()
        try:
            found = self._proposer.propose(wanted)
        except Exception as error:
            self._failed = True
            warnings.warn(f"nothing is guessed from now on: {type(error).__name__}: {error}", stacklevel=2)
            return {}
        if self._known.issuperset(wanted):  # a draft model has read their prompts
            self._seconds = time.perf_counter() - start
        self._known.update(wanted)
        return found

    def _worth(self, sequence: Sequence, cost: float) -> int:
        """How many guesses pay: the n-th brings a token if it is right and all before it, with hope^n, which
        must exceed its cost."""
        hope = self._hope.setdefault(sequence, self._first)
        if hope <= cost:
            self._hope[sequence] = hope + FORGOTTEN * (FIRST_HOPE - hope)
            return 0
        return math.floor(math.log(cost) / math.log(min(hope, 0.99)))

    def timed(self, chunks: Collection[Chunk], seconds: float) -> None:
        """A step took so long. Those that read prompts tell nothing of guesses."""
        if all(chunk.draws and chunk.count == 1 for chunk in chunks):
            guesses = sum(len(chunk.guesses) for chunk in chunks)
            self._pace.saw(len(chunks), guesses, seconds + self._seconds)

    def learn(self, sequence: Sequence, guessed: int, right: int) -> None:
        """Of the guesses that a step looked at, the first `right` were accepted."""
        self.drafts += 1
        self.drafted += guessed
        self.accepted += right
        kept = (1 - LEARNED) ** right
        hope = 1 - kept * (1 - self._hope[sequence])
        self._hope[sequence] = hope if right == guessed else hope * (1 - LEARNED)

    def forget(self, sequence: Sequence) -> None:
        """A sequence has ended."""
        self._known.discard(sequence)
        self._first += LEARNED * (self._hope.pop(sequence, self._first) - self._first)
        self._proposer.forget(sequence)
