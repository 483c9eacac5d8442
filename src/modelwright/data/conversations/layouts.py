"""How rows name their fields, and which of these layouts a file has.

A file has one layout. It is found from its first rows and said; where they fit several, nothing is guessed:
`layout` of the source settles it. Columns with names of their own are given with `fields`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Any, Literal

from modelwright.base.errors import UserError, did_you_mean
from modelwright.base.schema import Conversation, Preference
from modelwright.data.conversations import instructions, preferences, threads
from modelwright.data.conversations.messages import Fields
from modelwright.data.readers.source import LayoutName, Source

Kind = Literal["conversations", "preferences"]
"""What is made of rows."""

SAMPLE = 100
"""Rows of a file that are looked at."""


def _speaks(field: str, name: str) -> Callable[[Fields], bool]:
    """Whether a field is a list, the first item of which has this name."""

    def check(fields: Fields) -> bool:
        items = fields[field]
        return isinstance(items, list) and bool(items) and isinstance(items[0], dict) and name in items[0]

    return check


def _any(_: Fields) -> bool:
    """Rows of any looks."""
    return True


def _are(kind: type | UnionType, *names: str) -> Callable[[Fields], bool]:
    """Whether fields are of a kind."""
    return lambda fields: all(isinstance(fields[name], kind) for name in names)


def _is_transcript(fields: Fields) -> bool:
    return all(str(fields[name])[:9].startswith("\n\nHuman:") for name in ("chosen", "rejected"))


@dataclass(frozen=True, slots=True)
class Layout:
    """Names of fields, and what is made of a row that has them."""

    name: LayoutName
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    conversations: Callable[[Fields], Iterator[Conversation]] | None = None
    preferences: Callable[[Fields], Iterator[Preference]] | None = None
    looks_so: Callable[[Fields], bool] = _any
    """Whether a row that has the required fields is of this layout."""
    other_names: tuple[tuple[str, str], ...] = ()
    """(another common name of a field, its name here), read where the row has not both."""

    @property
    def known(self) -> tuple[str, ...]:
        """All fields that are read."""
        return (*self.required, *self.optional)

    def renamed(self, fields: Fields) -> Fields:
        """The row under the names of this layout."""
        names = {
            other: name
            for other, name in self.other_names
            if fields.get(name) is None and fields.get(other) is not None
        }
        empty = names.values()  # a null under the layout's own name
        return {names.get(key, key): value for key, value in fields.items() if key not in empty}

    def fits(self, fields: Fields) -> bool:
        """Whether a row has the fields, in the right shape."""
        fields = self.renamed(fields)
        return all(fields.get(name) is not None for name in self.required) and self.looks_so(fields)

    def maker(self, wanted: Kind) -> Callable[[Fields], Iterator[Any]] | None:
        """What makes the wanted of a row, if it can."""
        return self.conversations if wanted == "conversations" else self.preferences

    def asks_less(self, other: Layout) -> bool:
        """Whether rows of the other layout fit this one too, and it says less about them."""
        same = set(self.required) == set(other.required)
        return set(self.required) < set(other.required) or (
            same and self.looks_so is _any is not other.looks_so
        )

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(self.required)})"


_ASIDE = ("judge", "method")
LAYOUTS: dict[LayoutName, Layout] = {
    layout.name: layout
    for layout in (
        Layout(
            "messages",
            ("messages",),
            ("tools",),
            threads.messages,
            looks_so=_speaks("messages", "role"),
            other_names=(("conversations", "messages"), ("conversation", "messages")),
        ),
        Layout(
            "sharegpt",
            ("conversations",),
            ("system", "tools"),
            threads.sharegpt,
            looks_so=_speaks("conversations", "from"),
        ),
        Layout("alpaca", ("instruction", "output"), ("input", "system", "history"), instructions.alpaca),
        Layout("dolly", ("instruction", "response"), ("context", "system"), instructions.dolly),
        Layout("self_instruct", ("instruction", "instances"), ("system",), instructions.self_instruct),
        Layout(
            "question_answer",
            ("question", "answer"),
            ("context", "rationale", "system"),
            instructions.question_answer,
            looks_so=_are(str, "question", "answer"),
        ),
        Layout(
            "question_answers",
            ("question", "answers"),
            ("context", "system"),
            instructions.question_answers,
            looks_so=lambda fields: not isinstance(fields.get("answer"), str),
        ),
        Layout(
            "prompt_completion",
            ("prompt", "completion"),
            ("system",),
            instructions.prompt_completion,
            looks_so=_are(str | list, "prompt", "completion"),
            other_names=(("response", "completion"),),
        ),
        Layout("labelled", ("prompt", "completion", "label"), ("system",), instructions.labelled),
        Layout("preference", ("chosen", "rejected"), ("prompt", *_ASIDE), preferences=preferences.preference),
        Layout(
            "transcript",
            ("chosen", "rejected"),
            _ASIDE,
            preferences=preferences.transcripts,
            looks_so=_is_transcript,
        ),
        Layout(
            "tree",
            ("prompt",),
            (),
            threads.tree,
            preferences.ranked_tree,
            looks_so=lambda fields: isinstance(fields["prompt"], dict) and "replies" in fields["prompt"],
        ),
    )
}
"""Name -> layout."""


def own_names(fields: Fields, source: Source) -> Fields:
    """A row with its fields renamed as the source says."""
    if not source.fields:
        return fields
    names = {own: name for name, own in source.fields.items()}
    kept = {field: value for field, value in fields.items() if field not in source.fields or field in names}
    return {names.get(field, field): value for field, value in kept.items()}


def find_layout(rows: Sequence[Fields], source: Source, where: str, wants: Kind | None = None) -> Layout:
    """The layout of a file's first rows; of those that fit, one that makes what is wanted. Raises UserError
    where they fit none, or several."""
    known = {name for layout in LAYOUTS.values() for name in layout.known}
    for name in source.fields:
        if name not in known:
            hint = did_you_mean(name, known)
            raise UserError(f"fields of source '{source.name}': no layout has '{name}'.{hint}")
    if source.layout is not None:
        return LAYOUTS[source.layout]
    votes = Counter(tuple(_fitting(row, wants)) for row in rows)
    candidates = list(dict.fromkeys(layout for fits in votes for layout in fits))
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise UserError(_no_layout(rows, where))
    each = [f"{count:,} look like {' or '.join(map(str, fits))}" for fits, count in votes.items() if fits]
    raise UserError(
        f"{where}: of the first {len(rows):,} rows, {', '.join(each)}. A file has one layout: say which"
        f" beside the source's path, e.g. layout: {candidates[0].name} (modelwright dataset: --layout"
        f" {candidates[0].name}); rows that do not fit are then wrong"
    )


def _fitting(fields: Fields, wants: Kind | None) -> list[Layout]:
    """The layouts that a row fits, without those that ask for less than another one of them."""
    fits = [layout for layout in LAYOUTS.values() if layout.fits(fields)]
    wanted = [layout for layout in fits if wants and layout.maker(wants)] or fits
    return [one for one in wanted if not any(one.asks_less(other) for other in wanted)]


def _no_layout(rows: Sequence[Fields], where: str) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))[:20]
    have = ", ".join(f'"{name}"' for name in names) or "no fields"
    if len(names) == 1 and any(mark in names[0] for mark in ";\t|"):
        return (
            f"{where}: one column, {have}, whose name looks like several: CSV has commas between its"
            " columns, TSV (format: tsv) tabs. Write the file anew with commas"
        )
    return (
        f"{where}: no layout of conversations or pairs fits any of the first {len(rows):,} rows, which have"
        f" {have}."
        f" Known: {', '.join(map(str, LAYOUTS.values()))}. Columns with other names:"
        " fields: {question: YOUR COLUMN, answer: YOUR COLUMN} beside the source's path (modelwright dataset:"
        " --field question=YOUR COLUMN --field answer=YOUR COLUMN)"
    )
