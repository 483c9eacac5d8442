"""The engine: prompts in, completions out, many at once. It is a `Sampler` (base/seams.py).

There is one decoding loop, `step`: let in who waits, draw one token for everybody who runs, take out
who is done. `sample` and `stream` turn that crank; a server submits and turns it from its own thread.
The engine itself is for one thread.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from modelwright.base.errors import UserError
from modelwright.base.schema import Completion, Sampling
from modelwright.inference import sampling as draws
from modelwright.inference import scheduler as schedule
from modelwright.inference import scoring
from modelwright.inference.runner import Runner
from modelwright.inference.text import ByteTokenizer, TextStream, text_of
from modelwright.model.transformer import Transformer

END_TOKENS = ("<|im_end|>", "<|endoftext|>")
"""What ends a completion by default: the end of a turn and the end of a text."""


class PromptTooLong(UserError):
    """A prompt leaves no room for a single token of answer."""


@dataclass(frozen=True, slots=True)
class Delta:
    """What a step brought to one request. Streams get one per token, others only the last."""

    request: int
    text: str
    """New text; may lag behind the tokens while a character or a stop string is incomplete."""
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    top_logprobs: tuple[schedule.TopTokens, ...]
    completion: Completion | None
    """The whole answer, when this is the end of it."""


class Engine:
    """Continuous batching over one model.

    `max_slots` sequences run at once and the rest wait. `max_length` bounds prompt plus answer (the
    model's context by default). `stop_ids` end every completion, besides the request's own; by
    default they are the tokenizer's end-of-turn and end-of-text, and `()` switches that off.
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: ByteTokenizer,
        *,
        max_slots: int = 32,
        max_length: int | None = None,
        stop_ids: Sequence[int] | None = None,
    ) -> None:
        if max_slots < 1:
            raise UserError(f"max_slots is {max_slots}, expected at least 1")
        self.tokenizer = tokenizer
        context = model.config.max_position_embeddings
        self.max_length = min(max_length or context, context)
        self.vocab_size = model.config.vocab_size
        special = tokenizer.special_ids
        ends = [special[name] for name in END_TOKENS if name in special] if stop_ids is None else stop_ids
        self.stop_ids = frozenset(ends)
        self.policy_version = 0
        self._runner = Runner(model, max_slots, self.max_length)
        self._scheduler = schedule.Scheduler(max_slots)
        self._settings: draws.Settings | None = None
        self._undelivered: list[Delta] = []
        self._next_id = 0

    # --- the sampler's seam

    def sample(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Completion]:
        """Complete every prompt; answers are in the prompts' order.

        A prompt that occurs several times gets different answers (the n-th from a seed of its own),
        and its answers do not depend on which other prompts are in the list.
        """
        copies: Counter[tuple[int, ...]] = Counter()
        order: list[int] = []
        done: dict[int, Completion] = {}
        try:
            for prompt in prompts:
                ids = tuple(prompt)
                seed = draws.seed_of_copy(sampling.seed, copies[ids])
                order.append(self.submit(ids, replace(sampling, seed=seed)))
                copies[ids] += 1
            wanted = frozenset(order)
            while len(done) < len(order):
                done.update((d.request, d.completion) for d in self._step_for(wanted) if d.completion)
        finally:
            for request in order:
                if request not in done:
                    self.cancel(request)
        return [done[request] for request in order]

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """For each sequence of n ids, n - 1 log-probabilities (nats): ids[i] given ids[:i]."""
        return [scored.logprobs for scored in self.score_with_top(sequences, top=0)]

    def score_with_top(self, sequences: Sequence[Sequence[int]], top: int) -> list[scoring.Scored]:
        """`score`, with the `top` most likely alternatives at each place."""
        for ids in sequences:
            self._check_ids(ids)
            if len(ids) > self.max_length:
                raise PromptTooLong(
                    f"a sequence to score has {len(ids)} tokens, the model reads at most {self.max_length}"
                )
        return scoring.score(self._runner, sequences, top)

    def update_weights(self, state: Mapping[str, Tensor], version: int) -> None:
        """Take new weights; later completions carry `version`."""
        if self._scheduler.busy:
            raise RuntimeError("weights cannot change while sequences run: their cache would be stale")
        self._runner.load(state)
        self.policy_version = version

    # --- continuous batching

    def submit(self, prompt: Sequence[int], sampling: Sampling, *, streaming: bool = False) -> int:
        """Queue a request; its number comes back in the deltas of `step`."""
        ids = tuple(prompt)
        self.check_prompt(ids)
        draws.check(sampling, self.vocab_size)
        needs_text = streaming or bool(sampling.stop)
        sequence = schedule.Sequence(
            id=self._next_id,
            prompt=ids,
            sampling=sampling,
            seed=draws.seed_of_copy(sampling.seed, 0),
            stop_ids=self.stop_ids | frozenset(sampling.stop_ids),
            limit=min(sampling.max_tokens, self.max_length - len(ids)),
            streaming=streaming,
            text=TextStream(self.tokenizer, sampling.stop) if needs_text else None,
        )
        self._next_id += 1
        self._scheduler.add(sequence)
        return sequence.id

    def step(self) -> list[Delta]:
        """One token for every running sequence; the requests that streamed or ended."""
        deltas, self._undelivered = self._undelivered, []
        decoding = list(self._scheduler.running)
        if fresh := self._scheduler.admit():
            self._settings = None
            logits = self._runner.prefill(len(decoding), [sequence.prompt for sequence in fresh])
            deltas += self._accept(fresh, logits, self._columns(fresh))
        if decoding:
            tokens = [sequence.ids[-1] for sequence in decoding]
            logits = self._runner.decode(tokens, [sequence.length - 1 for sequence in decoding])
            deltas += self._accept(decoding, logits, self._columns(decoding))
        return deltas

    def cancel(self, request: int) -> Completion | None:
        """Stop a request; what it has so far, or None if it has ended already."""
        everybody = [*self._scheduler.running, *self._scheduler.waiting]
        found = next((sequence for sequence in everybody if sequence.id == request), None)
        if found is None:
            return None
        found.finish_reason = "cancelled"
        self._leave(found)
        return self._completion(found)

    def stream(self, prompt: Sequence[int], sampling: Sampling) -> Iterator[Delta]:
        """Complete one prompt piece by piece; giving the iterator up cancels the rest."""
        request = self.submit(prompt, sampling, streaming=True)
        try:
            ended = False
            while not ended:
                for delta in self._step_for({request}):
                    ended = delta.completion is not None
                    yield delta
        finally:
            self.cancel(request)

    def next_token_distribution(self, prompt: Sequence[int], sampling: Sampling | None = None) -> Tensor:
        """(V,) fp32 probabilities of the next token: the model's own, or what `sampling` draws from."""
        self.check_prompt(prompt)
        logits = self._runner.next_logits(prompt)
        if sampling is None:
            return torch.softmax(logits, -1)
        draws.check(sampling, self.vocab_size)
        settings = draws.Settings.of([sampling], [0], self.vocab_size, str(self._runner.device))
        return draws.filtered(logits[None], settings)[0]

    def check_prompt(self, ids: Sequence[int]) -> None:
        """Refuse a prompt that cannot be completed (safe to call from any thread)."""
        self._check_ids(ids)
        if not ids:
            raise UserError("the prompt is empty; begin with <|endoftext|> to let the model start freely")
        if len(ids) >= self.max_length:
            raise PromptTooLong(
                f"the prompt has {len(ids)} tokens; the context is {self.max_length} tokens, prompt and "
                "answer together, so a prompt may have at most "
                f"{self.max_length - 1}"
            )

    # --- inside

    def _step_for(self, requests: AbstractSet[int]) -> list[Delta]:
        """A step's deltas for some requests; those of others wait for whoever calls `step`."""
        deltas = self.step()
        self._undelivered = [delta for delta in deltas if delta.request not in requests]
        return [delta for delta in deltas if delta.request in requests]

    def _check_ids(self, ids: Sequence[int]) -> None:
        if ids and not 0 <= min(ids) <= max(ids) < self.vocab_size:
            raise UserError(
                f"token ids must be between 0 and {self.vocab_size - 1}, received {min(ids)}..{max(ids)}"
            )

    def _columns(self, sequences: list[schedule.Sequence]) -> draws.Settings:
        """Sampling settings as columns; kept as long as the running batch stays the same."""
        whole = sequences == self._scheduler.running
        if whole and self._settings is not None:
            return self._settings
        settings = draws.Settings.of(
            [sequence.sampling for sequence in sequences],
            [sequence.seed for sequence in sequences],
            self.vocab_size,
            str(self._runner.device),
        )
        self._settings = settings if whole else None
        return settings

    def _accept(
        self, sequences: list[schedule.Sequence], logits: Tensor, settings: draws.Settings
    ) -> list[Delta]:
        """Draw a token for each sequence (rows of `logits`), and let go of those that end."""
        choice = draws.choose(logits, settings, [len(sequence.ids) for sequence in sequences])
        deltas: list[Delta] = []
        for row, sequence in enumerate(sequences):
            piece = sequence.accept(choice.ids[row], choice.logprobs[row])
            top: schedule.TopTokens = ()
            if choice.top is not None and sequence.sampling.top_logprobs:
                top = tuple(choice.top[row][: sequence.sampling.top_logprobs])
                sequence.top.append(top)
            if sequence.streaming or sequence.finish_reason is not None:
                deltas.append(self._delta(sequence, piece, top))
        for sequence in sequences:
            if sequence.finish_reason is not None:
                self._leave(sequence)
        return deltas

    def _delta(self, sequence: schedule.Sequence, piece: str, top: schedule.TopTokens) -> Delta:
        ended = sequence.finish_reason is not None
        return Delta(
            request=sequence.id,
            text=piece,
            ids=(sequence.ids[-1],),
            logprobs=(sequence.logprobs[-1],),
            top_logprobs=(top,) if sequence.sampling.top_logprobs else (),
            completion=self._completion(sequence) if ended else None,
        )

    def _leave(self, sequence: schedule.Sequence) -> None:
        self._settings = None
        move = self._scheduler.remove(sequence)
        if move is not None and move.source != move.target:
            length = self._scheduler.running[move.target].length
            self._runner.move(move.source, move.target, length)

    def _completion(self, sequence: schedule.Sequence) -> Completion:
        assert sequence.finish_reason is not None
        if sequence.text is None:
            by_id = sequence.finish_reason == "stop"  # stop strings would have needed the text
            text = text_of(self.tokenizer, sequence.ids[:-1] if by_id else sequence.ids)
        else:
            if sequence.finish_reason == "cancelled":
                sequence.pieces.append(sequence.text.end())
            text = "".join(sequence.pieces)
        return Completion(
            ids=tuple(sequence.ids),
            logprobs=tuple(sequence.logprobs),
            text=text,
            finish_reason=sequence.finish_reason,
            policy_version=self.policy_version,
            top_logprobs=tuple(sequence.top),
        )
