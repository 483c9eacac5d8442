"""dataset: rows of conversations or preference pairs, looked at before a model learns from them.

This is no station of a life: `modelwright dataset check|stats|preview|split|dedup|convert` call it. Files are
read once, row by row; a row that cannot be read is told with its place and reason, and reading goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from modelwright.base.config import validate
from modelwright.base.errors import UserError
from modelwright.base.files import atomic_path
from modelwright.base.progress import View
from modelwright.base.schema import Conversation, Message, Preference, Reason
from modelwright.data.conversations.layouts import Kind
from modelwright.data.conversations.read import Found, found_rows, made_of
from modelwright.data.readers.faults import Faults
from modelwright.data.readers.source import Source
from modelwright.formats.locate import resolve_model
from modelwright.tokenizer.bpe import TOKENIZER_FILE, BPETokenizer
from modelwright.tokenizer.learn import SMALLEST_VOCABULARY, learn

Tell = Callable[[str, Reason], None]
"""(where, reason) of a row that is not read."""

SHOWN_EVERY = 256
"""Rows between two signs of progress."""


class Examples(NamedTuple):
    """A row and what is made of it."""

    found: Found
    made: Sequence[Conversation | Preference]


def sources_of(files: Sequence[str], settings: dict[str, Any]) -> list[Source]:
    """Files, folders and globs as sources; `settings` (format, layout, fields) are of all of them."""
    given = {name: value for name, value in settings.items() if value}
    return [validate(Source, {"path": path, **given}, path) for path in files]


def examples(sources: Sequence[Source], faults: Faults, view: View) -> Iterator[Examples]:
    """The rows of all files in order, conversations or pairs as their layout says. Files of both kinds
    together are a UserError."""
    wants: Kind | None = None
    with _counted(view) as advance:
        for found in found_rows(sources, faults):
            kind: Kind = "conversations" if found.layout.conversations else "preferences"
            if wants is not None and kind != wants:
                raise UserError(
                    f"{found.row.part.where} holds {kind}, files before it {wants}: one kind at a time"
                )
            wants = kind
            made = made_of(found, kind, faults)
            advance()
            if made:
                yield Examples(found, made)


@contextmanager
def _counted(view: View) -> Iterator[Callable[[], None]]:
    """A count of rows: how many there will be is not known before they are read."""
    count = 0
    with view.task("files read", 1) as task:

        def advance() -> None:
            nonlocal count
            count += 1
            if count % SHOWN_EVERY == 0:
                task.advance(0, rows=float(count))

        yield advance
        task.advance(1, rows=float(count))


@contextmanager
def new_file(path: Path) -> Iterator[TextIO]:
    """A file of text that is there when all is written."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        yield file


def open_tokenizer(model: Path | None) -> tuple[BPETokenizer, str]:
    """The tokenizer of a model, a run or a folder, and what to say of it. Where none is named, each byte is a
    token: template and mask are those of ChatML, lengths are in bytes."""
    if model is None:
        said = "no --model: ChatML, a token for each byte. Lengths in tokens need the model's own tokenizer"
        return learn([], SMALLEST_VOCABULARY), said
    folder = model if (model / TOKENIZER_FILE).is_file() else resolve_model(model)
    return BPETokenizer.load(folder), f"tokenizer and chat template of {folder}"


def as_conversations(example: Conversation | Preference) -> Iterator[Conversation]:
    """What a model would be shown: a conversation, or a prompt with each of its two answers."""
    if isinstance(example, Conversation):
        yield example
        return
    for answer in (example.chosen, example.rejected):
        yield Conversation(messages=(*example.prompt, Message(role="assistant", content=answer)))
