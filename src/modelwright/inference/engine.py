"""The engine: prompts in, completions out, many at once. It is a `Sampler` (base/seams.py).

There is one decoding loop (inference/loop.py), and `step` is its crank. `sample` and `stream` turn it; a
server submits and turns it from its own thread. The engine itself is for one thread.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from modelwright.base.errors import UserError
from modelwright.base.schema import Completion, Sampling
from modelwright.inference import compiled, scoring
from modelwright.inference import sampling as draws
from modelwright.inference import scheduler as schedule
from modelwright.inference.answers import Delta
from modelwright.inference.blocks import BlockPool, blocks_for
from modelwright.inference.cache import blocks_of_cache
from modelwright.inference.draft import DraftModel
from modelwright.inference.loop import Loop
from modelwright.inference.penalties import Penalties
from modelwright.inference.runner import Piece, Runner
from modelwright.inference.speculate import NGram, Speculation, Speculator, check_draft
from modelwright.inference.structured import Matcher, Vocabulary
from modelwright.inference.text import ByteTokenizer, TextStream
from modelwright.model.adapters import Adapter, AdapterSet
from modelwright.model.transformer import Transformer

SCRATCH = 64
"""Blocks kept for texts that are scored, at the least."""


class PromptTooLong(UserError):
    """A prompt leaves no room for a single token of answer."""


class Engine:
    """Continuous batching over one model.

    `max_slots` sequences run at once and the rest wait. `max_length` bounds prompt plus answer (the
    model's context by default). `stop_ids` end every completion, besides the request's own; by
    default they are the tokenizer's, such as end-of-turn and end-of-text, and `()` switches that off.
    `cache_tokens` is how many positions the key-value cache holds (by default enough for all slots, in at
    most 2 GiB; where `usual_length` is given, for slots of so many, prompt and answer together); `cache` is
    what they are stored in. A step computes at most `step_tokens` tokens.
    `head` "int8" keeps the output projection of the compiled path in 8 bits (see CompiledRunner).
    `use_compiled` False takes the plain path even where there is a compiled one. `speculate` lets it guess.
    `owns_model`: nobody else needs the model, which saves the memory of a second copy of its weights.
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: ByteTokenizer,
        *,
        max_slots: int = 32,
        max_length: int | None = None,
        stop_ids: Sequence[int] | None = None,
        cache_tokens: int | None = None,
        usual_length: int | None = None,
        cache: Literal["auto", "int8"] = "auto",
        step_tokens: int = 512,
        head: Literal["auto", "int8"] = "auto",
        use_compiled: bool = True,
        speculate: Speculation | None = None,
        owns_model: bool = False,
    ) -> None:
        if max_slots < 1:
            raise UserError(f"max_slots is {max_slots}, expected at least 1")
        if step_tokens < max_slots:
            raise UserError(f"step_tokens is {step_tokens}, expected at least max_slots ({max_slots})")
        self.tokenizer = tokenizer
        context = model.config.max_position_embeddings
        self.max_length = min(max_length or context, context)
        self.vocab_size = model.config.vocab_size
        self.stop_ids = frozenset(tokenizer.stop_ids if stop_ids is None else stop_ids)
        blocks = blocks_of_cache(model, cache, cache_tokens, max_slots, self.max_length, usual_length)
        scratch = max(SCRATCH, blocks_for(self.max_length))
        self._scratch = range(blocks, blocks + scratch)
        self._adapters, self._use_compiled = AdapterSet(model), use_compiled
        self._runner: Runner = compiled.runner_of(
            model,
            blocks + scratch,
            cache,
            self._adapters,
            head=head,
            use_compiled=use_compiled,
            owns_model=owns_model,
        )
        self.structures = Vocabulary(tokenizer, self.vocab_size, sorted(self.stop_ids))
        """Compiles structures; safe to call from any thread, so that a long one holds up nobody."""
        self._scheduler = schedule.Scheduler(BlockPool(blocks), max_slots, step_tokens)
        race = speculate is not None and speculate.kind == "draft"
        columns = draws.Columns(self.vocab_size, str(self._runner.device), race=race)
        self._speculator = None if speculate is None else self._speculator_of(speculate, model, step_tokens)
        self._loop = Loop(self._scheduler, self._runner, columns, tokenizer, self._speculator)
        self._undelivered: list[Delta] = []
        self._next_id = 0

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the LoRA adapters that requests may ask for."""
        return self._adapters.names

    def add_adapter(self, name: str, adapter: Adapter) -> None:
        """Let requests ask for an adapter. `UserError` where it does not fit the model."""
        self._adapters.add(name, adapter)
        self._runner.adapters_changed()

    def remove_adapter(self, name: str) -> None:
        """Forget an adapter that nobody is being answered with."""
        scheduler = self._scheduler
        if any(each.sampling.adapter == name for each in (*scheduler.running, *scheduler.waiting)):
            raise RuntimeError(f"requests with adapter '{name}' are not done yet")
        self._adapters.remove(name)
        scheduler.pool.forget_adapter(name)
        self._runner.adapters_changed()

    @property
    def runner(self) -> str:
        """What computes the steps: "CompiledRunner", "GraphRunner" or "PlainRunner"."""
        return type(self._runner).__name__

    @property
    def device(self) -> torch.device:
        """Where steps are computed. A model that the engine owns may be nowhere any more."""
        return self._runner.device

    @property
    def is_compiled(self) -> bool:
        """Whether steps run in compiled code."""
        return isinstance(self._runner, compiled.CompiledRunner)

    def stats(self) -> schedule.EngineStats:
        """How busy it is, and what it has done (safe to call from any thread)."""
        scheduler = self._scheduler
        return schedule.EngineStats(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            cache_usage=scheduler.pool.used / scheduler.pool.total,
            prefix_queries=scheduler.prefix_queries,
            prefix_hits=scheduler.prefix_hits,
            prompt_tokens=self._loop.prompt_tokens,
            generation_tokens=self._loop.generation_tokens,
            preemptions=scheduler.preemptions,
            drafts=self._speculator.drafts if self._speculator else 0,
            drafted=self._speculator.drafted if self._speculator else 0,
            accepted=self._speculator.accepted if self._speculator else 0,
        )

    # --- the sampler's seam

    def sample(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Completion]:
        """Complete every prompt; answers are in the prompts' order.

        A prompt that occurs several times gets different answers (the n-th from a seed of its own),
        and its answers do not depend on which other prompts are in the list.
        """
        copies: Counter[tuple[int, ...]] = Counter()
        own: list[Sampling] = []
        for prompt in map(tuple, prompts):
            own.append(replace(sampling, seed=draws.seed_of_copy(sampling.seed, copies[prompt])))
            copies[prompt] += 1
        return self.complete(prompts, own)

    def complete(self, prompts: Sequence[Sequence[int]], samplings: Sequence[Sampling]) -> list[Completion]:
        """Complete every prompt under settings of its own; answers are in the prompts' order."""
        order: list[int] = []
        done: dict[int, Completion] = {}
        try:
            for prompt, sampling in zip(prompts, samplings, strict=True):
                order.append(self.submit(prompt, sampling))
            wanted = frozenset(order)
            while len(done) < len(order):
                for delta in self._step_for(wanted):
                    if delta.error is not None:
                        raise delta.error
                    if delta.completion is not None:
                        done[delta.request] = delta.completion
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
        with self._in_scratch():
            return scoring.score(self._runner, self._scratch, self.vocab_size, sequences, top)

    def embed(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """(n, D) fp32: for each sequence the mean of its last hidden states, scaled to length 1."""
        for ids in sequences:
            self._check_ids(ids)
            if not 0 < len(ids) <= self.max_length:
                raise PromptTooLong(f"a text has {len(ids)} tokens, expected 1 to {self.max_length}")
        with self._in_scratch():
            return scoring.embed(self._runner, self._scratch, sequences)

    def update_weights(self, state: Mapping[str, Tensor], version: int) -> None:
        """Take new weights; later completions carry `version`."""
        if self._scheduler.busy:
            raise RuntimeError("weights cannot change while sequences run: their cache would be stale")
        self._runner.load(state)
        self._scheduler.pool.forget()
        self._loop.policy_version = version

    # --- continuous batching

    def submit(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        *,
        streaming: bool = False,
        salt: str = "",
        matcher: Matcher | None = None,
    ) -> int:
        """Queue a request; its number comes back in the deltas of `step`.

        What is computed of the prompt is shared with those who have the same `salt`: with another, nobody can
        find out what was asked. `matcher` is for the sampling's structure, from `structures`, where it was
        made beforehand: otherwise it is made here.
        """
        ids = tuple(prompt)
        self.check_prompt(ids)
        draws.check(sampling, self.vocab_size)
        if sampling.adapter is not None:
            self._adapters.check(sampling.adapter)
        if sampling.structure is not None and matcher is None:
            matcher = self.structures.matcher(sampling.structure)
        needs_text = streaming or bool(sampling.stop)
        sequence = schedule.Sequence(
            id=self._next_id,
            prompt=ids,
            sampling=sampling,
            seed=draws.seed_of_copy(sampling.seed, 0),
            stop_ids=self.ends(sampling),
            limit=min(sampling.max_tokens, self.max_length - len(ids)),
            streaming=streaming,
            text=TextStream(self.tokenizer, sampling.stop) if needs_text else None,
            matcher=matcher,
            penalties=Penalties.of(sampling, ids),
            salt=salt,
        )
        self._next_id += 1
        self._scheduler.add(sequence)
        return sequence.id

    def ends(self, sampling: Sampling) -> frozenset[int]:
        """The tokens that end an answer."""
        own = frozenset[int]() if sampling.ignore_eos else self.stop_ids
        return own | {token for token in sampling.stop_ids if token < self.vocab_size}

    def step(self) -> list[Delta]:
        """Compute what the scheduler planned; the requests that streamed, ended or failed."""
        deltas, self._undelivered = [*self._undelivered, *self._loop.step()], []
        return deltas

    def cancel(self, request: int) -> Completion | None:
        """Stop a request; what it has so far, or None if it has ended already."""
        self._undelivered = [delta for delta in self._undelivered if delta.request != request]
        found = self._sequence(request)
        if found is None:
            return None
        found.finish_reason = "cancelled"
        self._loop.remove(found)
        return self._loop.completion(found)

    def stream(self, prompt: Sequence[int], sampling: Sampling) -> Iterator[Delta]:
        """Complete one prompt piece by piece; giving the iterator up cancels the rest."""
        request = self.submit(prompt, sampling, streaming=True)
        try:
            ended = False
            while not ended:
                deltas = self._step_for({request})
                if not deltas and self._sequence(request) is None:
                    return  # somebody else has cancelled it
                for delta in deltas:
                    if delta.error is not None:
                        raise delta.error
                    ended = delta.completion is not None
                    yield delta
        finally:
            self.cancel(request)

    def next_logits(self, prompt: Sequence[int]) -> Tensor:
        """(V,) fp32 logits of the next token."""
        self.check_prompt(prompt)
        with torch.inference_mode():
            return self._runner.logits([Piece(prompt, 0, self._scratch, outputs=1)])[0]

    def next_token_distribution(self, prompt: Sequence[int], sampling: Sampling | None = None) -> Tensor:
        """(V,) fp32 probabilities of the next token: the model's own, or what `sampling` draws from."""
        logits = self.next_logits(prompt)
        if sampling is None:
            return torch.softmax(logits, -1)
        draws.check(sampling, self.vocab_size)
        return draws.stages(logits, sampling, prompt)[-1].probabilities

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

    @contextmanager
    def _in_scratch(self) -> Iterator[None]:
        """What is computed inside uses the scratch blocks. Numbers that are none would stay there, and reach
        the next text as 0 x NaN."""
        try:
            yield
        except draws.BrokenModel:
            self._scheduler.preempt_all()
            self._runner.clear()
            raise

    def _sequence(self, request: int) -> schedule.Sequence | None:
        """The request, unless it has ended."""
        everybody = [*self._scheduler.running, *self._scheduler.waiting]
        return next((sequence for sequence in everybody if sequence.id == request), None)

    def _step_for(self, requests: AbstractSet[int]) -> list[Delta]:
        """A step's deltas for some requests; those of others wait for whoever calls `step`."""
        deltas = self.step()
        self._undelivered = [delta for delta in deltas if delta.request not in requests]
        return [delta for delta in deltas if delta.request in requests]

    def _speculator_of(self, settings: Speculation, model: Transformer, step_tokens: int) -> Speculator:
        if settings.draft is None:
            return Speculator(settings, NGram(settings.n))
        check_draft(settings, model, self.tokenizer, self.max_length)
        draft = settings.draft
        blocks = blocks_of_cache(draft, "auto", None, self._scheduler.max_running, self.max_length)
        runner = compiled.runner_of(
            draft, blocks, "auto", AdapterSet(draft), head="auto", use_compiled=self._use_compiled
        )
        return Speculator(settings, DraftModel(runner, blocks, self.vocab_size, step_tokens))

    def _check_ids(self, ids: Sequence[int]) -> None:
        if ids and not 0 <= min(ids) <= max(ids) < self.vocab_size:
            raise UserError(
                f"token ids must be between 0 and {self.vocab_size - 1}, received {min(ids)}..{max(ids)}"
            )
