"""A conversation in the terminal: the answer appears as it is made.

`/system TEXT` sets how the model should be, `/reset` forgets the conversation, `/help` lists the commands,
`/exit` leaves. Ctrl-C stops an answer, not the program. Lines may also be piped in.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.text import Text

from modelwright.base.errors import UserError
from modelwright.base.schema import Conversation, Message, Sampling
from modelwright.inference.engine import Delta, PromptTooLong
from modelwright.terminal.load import Loaded, load
from modelwright.terminal.printable import printable
from modelwright.tokenizer.chat import render

HELP = "/system TEXT sets the tone, /reset forgets, /help lists these, /exit leaves, Ctrl-C stops an answer"
BASE_ONLY = "This is a base model: it was never taught to take turns, so it continues your text instead."


def chat(
    model_path: Path | str,
    sampling: Sampling | None = None,
    *,
    system: str = "",
    device: str = "auto",
    dtype: str = "auto",
    speculate: str | None = None,
    guesses: int | None = None,
    console: Console | None = None,
) -> None:
    """Talk to a model until the input ends or `/exit`."""
    console = console or Console(highlight=False)
    aside = console if console.record else Console(highlight=False, stderr=True)
    loaded = load(model_path, device, dtype=dtype, speculate=speculate, guesses=guesses)
    talk = Chat(loaded, sampling or Sampling(max_tokens=256), system)
    aside.print(Text(loaded.line, style="dim"), soft_wrap=True)
    if not loaded.chats:
        aside.print(BASE_ONLY, style="yellow")
    aside.print(HELP, style="dim")
    prompt = "[bold]> [/]" if console.is_terminal and sys.stdin.isatty() else ""
    while True:
        try:
            line = console.input(prompt)
        except EOFError:
            return
        except KeyboardInterrupt:
            console.print(Text("\n(/exit leaves)", style="dim"))
            continue
        if line.strip() == "/exit":
            return
        if line.strip():
            _answer(console, talk, line)


def _answer(console: Console, talk: Chat, line: str) -> None:
    """Show the answer to a line as it comes, or what is wrong with the line."""
    if line.startswith("/"):
        console.print(Text(talk.command(line), style="dim"))
        return
    try:
        for piece in talk.say(line):
            console.print(Text(printable(piece)), end="", soft_wrap=True)
        console.print()
    except KeyboardInterrupt:
        console.print(Text(" (stopped)", style="dim"))
    except UserError as error:
        console.print(Text(str(error), style="red"))
    if talk.note:
        console.print(Text(talk.note, style="dim"))


class Chat:
    """The conversation so far, and what to do with the next line. Knows nothing of terminals."""

    def __init__(self, loaded: Loaded, sampling: Sampling, system: str = "") -> None:
        self.note = ""
        """Something to tell the user about the last answer."""
        self._loaded, self._sampling = loaded, sampling
        self._system = system
        self._turns: list[Message] = []
        self._count = 0

    def command(self, line: str) -> str:
        """Carry out a line that begins with a slash; says what was done."""
        name, _, rest = line.strip().partition(" ")
        if name == "/help":
            return HELP
        if name == "/reset":
            self._turns.clear()
            return "forgotten"
        if name == "/system":
            self._system = rest.strip()
            self._turns.clear()
            return "system message set, conversation forgotten" if rest else "system message removed"
        return f"unknown command '{name}'; {HELP}"

    def say(self, line: str) -> Iterator[str]:
        """Take the user's line and yield the answer's text. An answer given up halfway stays in the
        conversation as far as it came: it is what the user has seen."""
        self.note = ""
        self._turns.append(Message(role="user", content=line))
        pieces: list[str] = []
        try:
            for delta in self._stream():
                if delta.text:
                    pieces.append(delta.text)
                    yield delta.text
                if delta.completion is not None and delta.completion.finish_reason == "length":
                    self.note = "(cut: the answer reached its limit of tokens)"
        finally:
            if pieces:
                self._turns.append(Message(role="assistant", content="".join(pieces)))
            else:
                self._turns.pop()

    def _stream(self) -> Iterator[Delta]:
        engine = self._loaded.engine
        sampling = self._sampling
        if sampling.seed is not None:  # the same seed for every turn would repeat the same numbers
            sampling = replace(sampling, seed=sampling.seed + self._count)
            self._count += 1
        if not self._loaded.chats:
            yield from engine.stream(self._loaded.tokenizer.begin(self._turns[-1].content), sampling)
            return
        yield from engine.stream(self._prompt(), sampling)

    def _prompt(self) -> list[int]:
        """The conversation as ids; the oldest turns go when it no longer fits."""
        engine, tokenizer = self._loaded.engine, self._loaded.tokenizer
        system = [Message(role="system", content=self._system)] if self._system else []
        room = engine.max_length - min(self._sampling.max_tokens, engine.max_length // 4)
        dropped = 0
        while True:
            turns = Conversation(messages=(*system, *self._turns[dropped:]))
            ids = render(tokenizer, turns, add_generation_prompt=True).ids
            if len(ids) <= room:
                break
            if dropped + 1 >= len(self._turns):
                raise PromptTooLong(
                    f"this line has {len(ids)} tokens with its system message; the model reads {room} and "
                    "answers with the rest. Say it shorter."
                )
            dropped += 2
        del self._turns[:dropped]
        return ids
