"""POST /v1/completions: text in, its continuation out; with `echo`, how likely the text itself is."""

from __future__ import annotations

from modelwright.base.schema import Completion
from modelwright.inference.engine import Delta, Engine
from modelwright.inference.scoring import Scored
from modelwright.server.protocol import CompletionRequest
from modelwright.server.replies import Envelope, Json, text_logprobs, usage
from modelwright.server.worker import Prompt


class TextAnswer:
    """Text completions as OpenAI's clients and lm-evaluation-harness read them."""

    def __init__(
        self,
        request: CompletionRequest,
        texts: list[tuple[str, list[int]]],
        prompts: list[Prompt],
        engine: Engine,
        envelope: Envelope,
    ) -> None:
        """`texts` are the prompts as text and ids; `prompts` has n copies of each, none to only echo."""
        self.prompts = prompts
        self.include_usage = request.include_usage
        self.scores: list[Scored] | None = None
        """Of each prompt, when its log-probabilities were asked for."""
        self._texts, self._copies = texts, request.n or 1
        self._echo, self._logprobs = request.echo, request.logprobs is not None
        self._tokenizer, self._envelope = engine.tokenizer, envelope

    def whole(self, completions: list[Completion]) -> Json:
        """A `text_completion`."""
        if not self.prompts:
            nothing = Completion(ids=(), logprobs=(), text="", finish_reason="length")
            completions = [nothing] * (len(self._texts) * self._copies)
        choices = [self._choice(index, completion) for index, completion in enumerate(completions)]
        return self._envelope.wrap("text_completion", choices, usage=self._usage(completions))

    def opening(self, number: int) -> Json | None:
        """The echoed prompt."""
        return self._chunk(number, self._texts[number // self._copies][0]) if self._echo else None

    def piece(self, number: int, delta: Delta) -> list[Json]:
        """New text, and the reason why it ended if it did."""
        ended = delta.completion
        if not (delta.text or ended or self._logprobs):
            return []
        explained = None
        if self._logprobs:
            explained = text_logprobs(self._tokenizer, delta.ids, delta.logprobs, delta.top_logprobs)
        reason = ended.finish_reason if ended else None
        return [self._chunk(number, delta.text, finish_reason=reason, logprobs=explained)]

    def usage_chunk(self, completions: list[Completion]) -> Json:
        """The last chunk: no choices, only the count."""
        return self._envelope.wrap("text_completion", [], usage=self._usage(completions))

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
            return text_logprobs(
                self._tokenizer, completion.ids, completion.logprobs, completion.top_logprobs
            )
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
        more: Json = {"usage": None} if self.include_usage else {}
        return self._envelope.wrap("text_completion", [choice], **more)

    def _usage(self, completions: list[Completion]) -> Json:
        return usage(sum(len(ids) for _, ids in self._texts), completions)
