"""What /v1/responses answers: a list of items, each a message or a call, and the events that build it."""

from __future__ import annotations

import time
import uuid
from typing import Any

from modelwright.inference.engine import Delta
from modelwright.server.replies import Envelope, Json, cached_tokens, completion_of
from modelwright.server.turns import Toolbox, Turn
from modelwright.server.worker import Prompt
from modelwright.tokenizer.tool_calls import CallBegun, Piece, Words

ITEM = "response.output_item"
PART = "response.content_part"
TEXT = "response.output_text"
ARGUMENTS = "response.function_call_arguments"


class ResponseAnswer:
    """One answer, whole or as the events of OpenAI's clients."""

    REPEATED = frozenset(
        {
            *("instructions", "max_output_tokens", "metadata", "parallel_tool_calls", "temperature"),
            *("text", "tool_choice", "tools", "top_p"),
        }
    )
    """The fields of the request that the answer repeats."""

    def __init__(self, told: Json, prompts: list[Prompt], toolbox: Toolbox, envelope: Envelope) -> None:
        self.prompts = prompts
        self._envelope, self._turn = envelope, Turn(toolbox)
        self._told = {
            **told,
            "metadata": told["metadata"] or {},
            "parallel_tool_calls": toolbox.parallel,
            "temperature": 1.0 if told["temperature"] is None else told["temperature"],
            "text": told["text"] or {"format": {"type": "text"}},
            "tool_choice": told["tool_choice"] or "auto",
            "tools": told["tools"] or [],
            "top_p": 1.0 if told["top_p"] is None else told["top_p"],
        }
        self._items: list[Json] = []
        self._sequence = 0

    def whole(self, ends: list[Delta]) -> Json:
        """A `response`."""
        [end] = ends
        for piece in self._turn.take(completion_of(end).text, last=True):
            self._grow(piece)
        self._end_item(completion_of(end).finish_reason == "length")
        return self._response(end)

    def opening(self) -> list[Json]:
        """The answer has begun."""
        return [
            self._event(f"response.{state}", response=self._response())
            for state in ("created", "in_progress")
        ]

    def piece(self, number: int, delta: Delta) -> list[Json]:
        """Items that grow, and those that are whole."""
        ended = delta.completion
        events = [
            event
            for piece in self._turn.take(delta.text, last=ended is not None)
            for event in self._grow(piece)
        ]
        if ended is not None:
            events += self._end_item(ended.finish_reason == "length")
        return events

    def closing(self, ends: list[Delta]) -> list[Json]:
        """The whole answer again."""
        response = self._response(ends[0])
        return [self._event(f"response.{response['status']}", response=response)]

    # --- items

    def _grow(self, piece: Piece) -> list[Json]:
        """Put a piece where it belongs; the events that say so."""
        if isinstance(piece, Words):
            events = [] if self._last("message") else [*self._end_item(), *self._begin_message()]
            self._items[-1]["content"][0]["text"] += piece.text
            return [
                *events,
                self._event(f"{TEXT}.delta", **self._place(content=True), delta=piece.text, logprobs=[]),
            ]
        if isinstance(piece, CallBegun):
            return [*self._end_item(), *self._begin_call(piece)]
        self._items[-1]["arguments"] += piece.text
        return [self._event(f"{ARGUMENTS}.delta", **self._place(), delta=piece.text)]

    def _last(self, kind: str) -> bool:
        return bool(self._items) and self._items[-1]["type"] == kind

    def _begin_message(self) -> list[Json]:
        message: Json = {"type": "message", "id": _id("msg"), "role": "assistant", "status": "in_progress"}
        self._items.append({**message, "content": []})
        begun = self._event(f"{ITEM}.added", output_index=len(self._items) - 1, item=dict(self._items[-1]))
        part: Json = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        self._items[-1]["content"] = [part]
        return [begun, self._event(f"{PART}.added", **self._place(content=True), part=dict(part))]

    def _begin_call(self, piece: CallBegun) -> list[Json]:
        made = self._turn.calls[piece.index]
        call: Json = {"type": "function_call", "id": _id("fc"), "call_id": made.id, "name": made.name}
        self._items.append({**call, "arguments": "", "status": "in_progress"})
        place = len(self._items) - 1
        return [self._event(f"{ITEM}.added", output_index=place, item=dict(self._items[-1]))]

    def _end_item(self, cut: bool = False) -> list[Json]:
        """The item at the end is whole, or `cut` by the limit of tokens."""
        if not self._items or self._items[-1]["status"] != "in_progress":
            return []
        item = self._items[-1]
        item["status"] = "incomplete" if cut else "completed"
        if item["type"] == "message":
            part = item["content"][0]
            place = self._place(content=True)
            events = [
                self._event(f"{TEXT}.done", **place, text=part["text"], logprobs=[]),
                self._event(f"{PART}.done", **place, part=part),
            ]
        else:
            whole = {"arguments": item["arguments"], "name": item["name"]}
            events = [self._event(f"{ARGUMENTS}.done", **self._place(), **whole)]
        return [*events, self._event(f"{ITEM}.done", output_index=len(self._items) - 1, item=item)]

    def _place(self, *, content: bool = False) -> Json:
        """Where in the answer the item at the end is."""
        place = {"item_id": self._items[-1]["id"], "output_index": len(self._items) - 1}
        return place | ({"content_index": 0} if content else {})

    # --- the whole

    def _event(self, kind: str, **more: Any) -> Json:
        self._sequence += 1
        return {"type": kind, "sequence_number": self._sequence - 1, **more}

    def _response(self, end: Delta | None = None) -> Json:
        """The answer as it stands; with `end` it is whole."""
        cut = end is not None and completion_of(end).finish_reason == "length"
        status = "in_progress" if end is None else "incomplete" if cut else "completed"
        return {
            "id": self._envelope.id,
            "object": "response",
            "created_at": self._envelope.created,
            "completed_at": None if end is None else int(time.time()),
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "model": self._envelope.model,
            "output": list(self._items),
            "previous_response_id": None,
            "store": False,
            "truncation": "disabled",
            "usage": None if end is None else self._usage(end),
            **self._told,
        }

    def _usage(self, end: Delta) -> Json:
        asked, drawn = len(self.prompts[0][0]), len(completion_of(end).ids)
        return {
            "input_tokens": asked,
            "input_tokens_details": {"cached_tokens": cached_tokens([end]), "cache_write_tokens": 0},
            "output_tokens": drawn,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": asked + drawn,
        }


def _id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"
