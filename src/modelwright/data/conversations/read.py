"""Files to Conversations and Preferences: the layout of each file found, each row checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import Any, NamedTuple

from modelwright.base.errors import UserError
from modelwright.base.policy import ANYTHING, Policy, judge_texts
from modelwright.base.provenance import personal_data_flag
from modelwright.base.schema import Conversation, Json, Preference, Reason
from modelwright.data.conversations.layouts import LAYOUTS, SAMPLE, Kind, Layout, find_layout, own_names
from modelwright.data.conversations.messages import Fields, WrongRow
from modelwright.data.readers.faults import Faults
from modelwright.data.readers.files import File, find_files
from modelwright.data.readers.records import read_rows
from modelwright.data.readers.rows import Row, known
from modelwright.data.readers.source import Source

OF_ROWS = ("jsonl", "json", "parquet", "arrow", "csv", "tsv")
"""Formats whose records have fields."""

OWN = ("file", "place", "layout", "source", "licence", "jurisdiction", "personal_data")
"""Names in `meta` that say where a row comes from. A row's field of such a name is not carried."""
MOST_LETTERS, MOST_ITEMS, DEEPEST = 500, 32, 3
"""Of a field that is carried: letters of a text, items of a list or a mapping, and how deep these go."""

NO_DEMONSTRATION = "no demonstration"
"""Why a row that is right gives no conversation: an answer labelled as bad, a tree without an answer."""


class Found(NamedTuple):
    """A row of a file, with its fields under the names of the file's layout."""

    row: Row
    fields: Fields
    layout: Layout
    source: Source


def read_conversations(
    sources: Sequence[Source],
    faults: Faults | None = None,
    policy: Policy = ANYTHING,
    *,
    answered: bool = True,
) -> list[Conversation]:
    """All conversations of the files, in order. Each has an assistant's turn to learn from, unless `answered`
    is False. Rows that state what the policy does not allow are passed over, and counted by `faults`."""
    faults = faults or Faults()
    return [
        made
        for found in found_rows(sources, faults, policy, "conversations")
        for made in made_of(found, "conversations", faults, answered=answered)
    ]


def read_preferences(
    sources: Sequence[Source], faults: Faults | None = None, policy: Policy = ANYTHING
) -> list[Preference]:
    """All preference pairs of the files, in order, but for those that the policy does not allow."""
    faults = faults or Faults()
    return [
        made
        for found in found_rows(sources, faults, policy, "preferences")
        for made in made_of(found, "preferences", faults)
    ]


def found_rows(
    sources: Sequence[Source], faults: Faults, policy: Policy = ANYTHING, wants: Kind | None = None
) -> Iterator[Found]:
    """The rows of all files, each with the layout of its file."""
    judge = judge_texts(policy)
    for source in sources:
        for file in find_files(source, faults):
            for found in _of_file(file, source, faults, wants):
                its = known(found.row, source)
                breach = judge(its.licence, its.jurisdiction, personal_data_flag(its.personal_data))
                if breach:
                    faults.pass_over(breach.as_reason(), found.row.where)
                else:
                    yield found._replace(source=its)


def _of_file(file: File, source: Source, faults: Faults, wants: Kind | None) -> Iterator[Found]:
    if file.format not in OF_ROWS:
        raise UserError(f"{file.path}: conversations are read from {', '.join(OF_ROWS)} files")
    rows = read_rows(file, faults)
    first = list(islice(rows, SAMPLE))
    if not first:
        return
    named = [own_names(row.fields, source) for row in first]
    layout = find_layout(named, source, first[0].part.where, wants)
    for row in chain(first, rows):
        fields = row.fields
        if file.format in ("parquet", "arrow"):
            fields = _without_nulls(fields)
        yield Found(row, layout.renamed(own_names(fields, source)), layout, source)


def made_of(found: Found, wanted: Kind, faults: Faults, *, answered: bool = True) -> list[Any]:
    """The conversations or the pairs that a row holds; none, after a fault, where it is wrong. `answered`: a
    conversation without an assistant's turn is wrong."""
    make = found.layout.maker(wanted)
    if make is None:
        raise UserError(_other_kind(found, wanted))
    try:
        made = list(make(found.fields))
        for each in made if answered else ():
            if isinstance(each, Conversation) and all(turn.role != "assistant" for turn in each.messages):
                problem = "no message has the role 'assistant': there is nothing to learn"
                raise WrongRow("no assistant turn", problem)
    except WrongRow as wrong:
        faults(wrong.kind, found.row.where, str(wrong))
        return []
    except RecursionError:
        faults("nested too deeply", found.row.where, "the row is nested too deeply to be read")
        return []
    if not made:
        faults.pass_over(Reason(NO_DEMONSTRATION), found.row.where)
    return [replace(each, meta=_meta(found)) for each in made]


def _without_nulls(value: Json) -> Json:
    """What columns add: an object in a column has every field that any row has there, null where it is not
    its own."""
    if isinstance(value, dict):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _meta(found: Found) -> dict[str, Json]:
    """The row's place and its other short fields, and what is known of its source, for the roll-up."""
    row, source = found.row, found.source
    others = {
        name: value
        for name, value in found.fields.items()
        if name not in found.layout.known and _is_small(value)
    }
    place = (row.part.file, row.place, found.layout.name, source.name)
    facts = (source.licence, source.jurisdiction, source.personal_data)
    return {**others, **dict(zip(OWN, (*place, *facts), strict=True))}


def _is_small(value: Json, depth: int = DEEPEST) -> bool:
    if isinstance(value, str):
        return 0 < len(value) <= MOST_LETTERS
    if isinstance(value, list | dict):
        items = value.values() if isinstance(value, dict) else value
        return (
            0 < len(value) <= MOST_ITEMS and depth > 1 and all(_is_small(item, depth - 1) for item in items)
        )
    return isinstance(value, bool | int | float)


def _other_kind(found: Found, wanted: Kind) -> str:
    has, learner = ("conversations", "finetune") if wanted == "preferences" else ("preference pairs", "align")
    good = ", ".join(layout.name for layout in LAYOUTS.values() if layout.maker(wanted))
    return (
        f"{found.row.part.where}: its rows are {has} (layout {found.layout.name}), from which {learner}"
        f" learns; expected {wanted}: {good}"
    )
