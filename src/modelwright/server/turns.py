"""The assistant's turn on its way to the client: words, and calls of tools if any are on offer.

The two endpoints for conversations ask the same of the engine and differ only in how they tell it.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from modelwright.base.errors import UserError
from modelwright.base.schema import Completion, Structure
from modelwright.base.seams import Tokenizer
from modelwright.server.errors import ApiError
from modelwright.server.messages import NamedTool, Tool
from modelwright.server.protocol import unsupported
from modelwright.tokenizer.tool_calls import (
    MARKED,
    CallBegun,
    CallForm,
    Piece,
    ToolStream,
    Words,
    form_of,
    structure_for,
)


@dataclass(frozen=True, slots=True)
class Toolbox:
    """The tools on offer, and whether one must be called."""

    tools: Sequence[Tool]
    """Empty where none may be called: then the prompt does not speak of any."""
    forced: Structure | None = None
    """What the calls, or the whole answer where one must be made, are held to."""
    parallel: bool = True
    """Whether one answer may hold several calls."""
    form: CallForm = MARKED
    """How the model writes calls."""

    @classmethod
    def of(
        cls,
        tools: Sequence[Tool],
        choice: str | NamedTool | None,
        parallel: bool | None,
        tokenizer: Tokenizer,
    ) -> Toolbox:
        """What a request says of tools. `choice` is none, auto, required, or a tool by name."""
        if not tools and choice not in (None, "none", "auto"):
            raise ApiError(400, "'tool_choice' needs 'tools'", code="invalid_value", param="tool_choice")
        if not tools or choice == "none":
            return cls([])
        name = choice.function.name if isinstance(choice, NamedTool) else choice or "auto"
        known = [tool.function.name for tool in tools]
        if isinstance(choice, NamedTool) and name not in known:
            message = f"'tool_choice' names '{name}', which is not among the tools: {', '.join(known)}"
            raise ApiError(400, message, code="invalid_value", param="tool_choice")
        several = parallel is not False
        try:
            form = form_of(tokenizer)
            forced = structure_for([tool.enforced() for tool in tools], name, several, form)
        except UserError as error:
            raise ApiError(400, str(error), code="invalid_value", param="tools") from error
        return cls(tools, forced, several, form)

    def structure(self, asked: Structure | None, param: str) -> Structure | None:
        """What the answer must be, where a request also asks for a form."""
        if asked is not None and self.tools:
            raise unsupported(param, "cannot be combined with tools that may be called")
        return self.forced or asked


@dataclass(slots=True)
class MadeCall:
    """A call as the answer holds it."""

    name: str
    arguments: str = ""
    id: str = field(default_factory=lambda: f"call_{uuid.uuid4().hex[:24]}")


class Turn:
    """One completion, taken apart into words and calls."""

    def __init__(self, toolbox: Toolbox) -> None:
        self.words = ""
        self.calls: list[MadeCall] = []
        self._stream = ToolStream(toolbox.form) if toolbox.tools else None

    def take(self, text: str, *, last: bool) -> list[Piece]:
        """What some new text comes to; `last` when no more will come."""
        if self._stream is None:
            pieces: list[Piece] = [Words(text)] if text else []
        else:
            pieces = [*self._stream.push(text), *(self._stream.end() if last else [])]
        for piece in pieces:
            if isinstance(piece, Words):
                self.words += piece.text
            elif isinstance(piece, CallBegun):
                self.calls.append(MadeCall(piece.name))
            else:
                self.calls[piece.index].arguments += piece.text
        return pieces

    def finish_reason(self, completion: Completion) -> str:
        """Why the answer ended, in OpenAI's words."""
        return "tool_calls" if self.calls and completion.finish_reason == "stop" else completion.finish_reason
