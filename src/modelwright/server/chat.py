"""POST /v1/chat/completions: a conversation in, the assistant's next turn out."""

from __future__ import annotations

from modelwright.base.schema import Completion
from modelwright.inference.engine import Delta, Engine
from modelwright.server.protocol import ChatRequest
from modelwright.server.replies import Envelope, Json, chat_logprobs, usage
from modelwright.server.worker import Prompt


class ChatAnswer:
    """Chat completions as OpenAI's clients read them."""

    def __init__(
        self, request: ChatRequest, prompts: list[Prompt], engine: Engine, envelope: Envelope
    ) -> None:
        self.prompts = prompts
        self.include_usage = request.include_usage
        self._engine, self._envelope = engine, envelope
        self._logprobs = bool(request.logprobs)

    def whole(self, completions: list[Completion]) -> Json:
        """A `chat.completion`."""
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": completion.text, "refusal": None},
                "finish_reason": completion.finish_reason,
                "logprobs": self._explain(completion.ids, completion.logprobs, completion.top_logprobs),
            }
            for index, completion in enumerate(completions)
        ]
        return self._envelope.wrap("chat.completion", choices, usage=self._usage(completions))

    def opening(self, number: int) -> Json:
        """The chunk that names the role."""
        return self._chunk(number, {"role": "assistant", "content": ""})

    def piece(self, number: int, delta: Delta) -> list[Json]:
        """New text, then the reason why it ended."""
        chunks: list[Json] = []
        explained = self._explain(delta.ids, delta.logprobs, delta.top_logprobs)
        if delta.text or (explained and explained["content"]):
            chunks.append(self._chunk(number, {"content": delta.text}, logprobs=explained))
        if delta.completion is not None:
            chunks.append(self._chunk(number, {}, finish_reason=delta.completion.finish_reason))
        return chunks

    def usage_chunk(self, completions: list[Completion]) -> Json:
        """The last chunk: no choices, only the count."""
        return self._envelope.wrap("chat.completion.chunk", [], usage=self._usage(completions))

    def _chunk(
        self, number: int, delta: Json, *, finish_reason: str | None = None, logprobs: Json | None = None
    ) -> Json:
        choice = {"index": number, "delta": delta, "finish_reason": finish_reason, "logprobs": logprobs}
        more: Json = {"usage": None} if self.include_usage else {}
        return self._envelope.wrap("chat.completion.chunk", [choice], **more)

    def _explain(
        self,
        ids: tuple[int, ...],
        logprobs: tuple[float, ...],
        top: tuple[tuple[tuple[int, float], ...], ...],
    ) -> Json | None:
        """Log-probabilities of the message's tokens: the token that ends the turn is not part of it."""
        if not self._logprobs:
            return None
        count = len(ids) - (bool(ids) and ids[-1] in self._engine.stop_ids)
        return chat_logprobs(self._engine.tokenizer, ids[:count], logprobs[:count], top[:count])

    def _usage(self, completions: list[Completion]) -> Json:
        return usage(len(self.prompts[0][0]), completions)
