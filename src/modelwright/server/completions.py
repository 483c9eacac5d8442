"""POST /v1/completions: text in, its continuation out; with `echo`, how likely the text itself is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Annotated

from pydantic import Field
from starlette.types import ASGIApp

from modelwright.base.schema import Completion
from modelwright.inference.engine import Delta
from modelwright.inference.scoring import MAX_TOKENS, Scored
from modelwright.server.answers import send, while_connected
from modelwright.server.errors import ApiError
from modelwright.server.models import Lease
from modelwright.server.protocol import Drawing, LogprobsMode, unsupported
from modelwright.server.replies import Envelope, Json, completion_of, logprobs_of, text_logprobs, usage
from modelwright.server.service import Call
from modelwright.server.worker import Prompt, Worker, copies

COMPLETION_TOKENS = 16
"""OpenAI's default."""
Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
Texts = str | Ids | Annotated[list[str], Field(min_length=1)] | Annotated[list[Ids], Field(min_length=1)]


def texts_of(prompt: Texts) -> list[str | list[int]]:
    """One or several prompts, each as text or as ids."""
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt[0], int):
        return [[int(token) for token in prompt if isinstance(token, int)]]
    return [one for one in prompt if not isinstance(one, int)]


class CompletionRequest(Drawing):
    """POST /v1/completions."""

    prompt: Texts
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    echo: bool = False
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    logprobs_mode: LogprobsMode | None = None

    def refuse_unsupported(self) -> None:
        """Raise for the first wish that cannot be honoured."""
        super().refuse_unsupported()
        if self.max_tokens == 0 and not self.echo:
            message = "'max_tokens' is 0, which makes sense only with 'echo': true"
            raise ApiError(400, message, param="max_tokens")
        if self.logprobs_mode and self.logprobs is None:
            raise ApiError(400, "'logprobs_mode' needs 'logprobs'", param="logprobs_mode")
        if self.logprobs_mode == "processed_logprobs" and self.echo:
            why = "can only be 'raw_logprobs' with 'echo': nothing of a prompt was drawn"
            raise unsupported("logprobs_mode", why)
        if self.stream and (self.max_tokens == 0 or (self.echo and self.logprobs is not None)):
            message = "a stream can neither echo log-probabilities nor have 0 tokens"
            raise ApiError(400, message, param="stream")


async def complete(call: Call) -> ASGIApp:
    """POST /v1/completions."""
    asked = await call.read(CompletionRequest)
    model = call.lease(asked.model, asked.cache_salt)
    scored = asked.echo and asked.logprobs is not None
    if scored and model.adapter is not None:
        raise unsupported("logprobs", "of an echoed prompt are those of the model itself, not of an adapter")
    texts = await asyncio.to_thread(_encoded, model, asked)
    wish = COMPLETION_TOKENS if asked.max_tokens is None else asked.max_tokens
    prompts: list[Prompt] = []
    if wish:
        sampling = asked.sampling(
            max_tokens=wish,
            top_logprobs=asked.logprobs or 0,
            adapter=model.adapter,
            structure=asked.structure(),
        )
        model.check_sampling(sampling)
        prompts = [prompt for _, ids in texts for prompt in copies(ids, sampling, asked.n or 1)]
    answer = TextAnswer(asked, texts, prompts, model, call.envelope("cmpl", model))
    if scored:
        work = _scored(model.worker, [ids for _, ids in texts], asked.logprobs or 0)
        answer.scores = await while_connected(call.request.receive, work)
    return await send(model, call.request, answer, stream=asked.stream)


def _encoded(model: Lease, asked: CompletionRequest) -> list[tuple[str, list[int]]]:
    """Every prompt as text and ids."""
    texts: list[tuple[str, list[int]]] = []
    for prompt in texts_of(asked.prompt):
        ids = model.tokenizer.begin(prompt) if isinstance(prompt, str) else prompt
        model.check_length(ids, "prompt")
        texts.append((prompt if isinstance(prompt, str) else model.tokenizer.decode(ids), ids))
    model.check_count(len(texts) * (asked.n or 1), "prompt")
    return texts


async def _scored(worker: Worker, sequences: list[list[int]], top: int) -> list[Scored]:
    """Score all, a batch at a time, so that those who decode have their turns between the batches."""
    scores: list[Scored] = []
    for batch in batches(sequences):
        scores += await worker.call(lambda engine, batch=batch: engine.score_with_top(batch, top))
    return scores


def batches(sequences: list[list[int]]) -> Iterator[list[list[int]]]:
    """Neighbours together, as many as one pass through the model takes."""
    batch: list[list[int]] = []
    for ids in sequences:
        if batch and sum(map(len, batch)) + len(ids) > MAX_TOKENS:
            yield batch
            batch = []
        batch.append(ids)
    yield batch


class TextAnswer:
    """Text completions as OpenAI's clients and lm-evaluation-harness read them."""

    def __init__(
        self,
        request: CompletionRequest,
        texts: list[tuple[str, list[int]]],
        prompts: list[Prompt],
        model: Lease,
        envelope: Envelope,
    ) -> None:
        """`texts` are the prompts as text and ids; `prompts` has n copies of each, none to only echo."""
        self.prompts = prompts
        self.scores: list[Scored] | None = None
        """Of each prompt, when its log-probabilities were asked for."""
        self._include_usage = request.include_usage
        self._texts, self._copies = texts, request.n or 1
        self._echo, self._logprobs = request.echo, request.logprobs is not None
        self._mode: LogprobsMode | None = request.logprobs_mode
        self._tokenizer, self._envelope = model.tokenizer, envelope
        self._said = [0] * len(prompts)
        """Characters that each stream has sent."""

    def whole(self, ends: list[Delta]) -> Json:
        """A `text_completion`."""
        completions = [completion_of(end) for end in ends]
        if not self.prompts:
            nothing = Completion(ids=(), logprobs=(), text="", finish_reason="length")
            completions = [nothing] * (len(self._texts) * self._copies)
        choices = [self._choice(index, completion) for index, completion in enumerate(completions)]
        return self._envelope.wrap("text_completion", choices, usage=self._usage(ends))

    def opening(self) -> list[Json]:
        """The echoed prompts."""
        if not self._echo:
            return []
        return [
            self._chunk(number, self._texts[number // self._copies][0]) for number in range(len(self.prompts))
        ]

    def piece(self, number: int, delta: Delta) -> list[Json]:
        """New text, and the reason why it ended if it did."""
        ended = delta.completion
        if not (delta.text or ended or self._logprobs):
            return []
        explained = None
        if self._logprobs:
            said = self._said[number]
            explained = text_logprobs(self._tokenizer, delta.ids, *logprobs_of(delta, self._mode), said)
            self._said[number] += len(delta.text)
        reason = ended.finish_reason if ended else None
        return [self._chunk(number, delta.text, finish_reason=reason, logprobs=explained)]

    def closing(self, ends: list[Delta]) -> list[Json]:
        """The count of tokens, without choices."""
        if not self._include_usage:
            return []
        return [self._envelope.wrap("text_completion", [], usage=self._usage(ends))]

    def _choice(self, index: int, completion: Completion) -> Json:
        text, ids = self._texts[index // self._copies]
        return {
            "index": index,
            "text": (text if self._echo else "") + completion.text,
            "finish_reason": completion.finish_reason,
            "logprobs": self._explain(index, ids, completion) if self._logprobs else None,
        }

    def _explain(self, index: int, prompt: list[int], completion: Completion) -> Json:
        if self.scores is None:
            return text_logprobs(self._tokenizer, completion.ids, *logprobs_of(completion, self._mode))
        scored = self.scores[index // self._copies]
        return text_logprobs(
            self._tokenizer,
            [*prompt, *completion.ids],
            [None, *scored.logprobs, *completion.logprobs],
            [None, *scored.top, *completion.top_logprobs] if scored.top else [],
        )

    def _chunk(
        self, number: int, text: str, *, finish_reason: str | None = None, logprobs: Json | None = None
    ) -> Json:
        choice = {"index": number, "text": text, "finish_reason": finish_reason, "logprobs": logprobs}
        more: Json = {"usage": None} if self._include_usage else {}
        return self._envelope.wrap("text_completion", [choice], **more)

    def _usage(self, ends: list[Delta]) -> Json:
        return usage(sum(len(ids) for _, ids in self._texts), ends, self._copies)
