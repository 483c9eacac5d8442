"""dataset split, dedup, convert: rows to new files. Split and dedup write rows as they were."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from modelwright.base.errors import UserError
from modelwright.base.progress import View
from modelwright.base.schema import Conversation, Message, Preference
from modelwright.data.conversations.repeats import Repeats, groups, held_out
from modelwright.data.conversations.sides import opening
from modelwright.data.conversations.write import as_row, line, lost, others, write_rows
from modelwright.data.dedup.exact import HASH_BYTES, first_places, text_hash
from modelwright.data.readers.faults import Faults
from modelwright.stages.dataset import Examples, examples, new_file, sources_of

SIDES = ("train", "validation")


def split(
    files: Sequence[str], settings: dict[str, Any], out: Path, view: View, *, fraction: float, seed: int
) -> dict[str, Any]:
    """Write train.jsonl and validation.jsonl. Rows with the same opening question, or nearly the same text,
    are on one side; which side depends on what they say and the seed, not on their order."""
    repeats, keys, rows = Repeats(), list[bytes](), list[int]()
    faults = Faults("skip")
    for number, each in enumerate(examples(sources_of(files, settings), faults, view)):
        for example in each.made:
            repeats.add(example)
            keys.append(text_hash(" ".join(opening(_asked(example)).split())))
            rows.append(number)
    if not keys:
        raise UserError(f"no row of {', '.join(files)} can be read. See modelwright dataset check")
    openings = next(first_places([np.frombuffer(b"".join(keys), np.uint8).reshape(-1, HASH_BYTES)]))
    of_rows = np.unique(rows, return_index=True)[1][rows]  # what is made of one row stays together
    firsts = repeats.firsts()
    group = groups(firsts._replace(whole=of_rows), openings)
    away = held_out(group, keys, fraction, seed)
    is_away = dict(zip(rows, away.tolist(), strict=True))
    counts = Counter[str]()
    with ExitStack() as stack:
        written = [stack.enter_context(new_file(out / f"{side}.jsonl")) for side in SIDES]
        for number, each in enumerate(examples(sources_of(files, settings), Faults("skip"), view)):
            side = int(is_away[number])
            written[side].write(line(each.found.row.fields) + "\n")
            counts[SIDES[side]] += 1
        if not all(counts[side] for side in SIDES):
            raise UserError(
                f"one side would be empty: {len(set(group.tolist())):,} groups of rows that belong together,"
                f" of which {fraction:.1%} are held out. Raise --validation, or give more rows"
            )
    made = {side: {"file": str(out / f"{side}.jsonl"), "rows": counts[side]} for side in SIDES}
    return {**made, "groups": len(set(group.tolist())), "not_read": dict(faults.left_out)}


def _asked(example: Conversation | Preference) -> tuple[Message, ...]:
    return example.messages if isinstance(example, Conversation) else example.prompt


def dedup(
    files: Sequence[str],
    settings: dict[str, Any],
    out: Path,
    view: View,
    *,
    near: bool,
    prompts: bool,
    report: Path | None,
) -> dict[str, Any]:
    """Write the rows that repeat no earlier one: not its texts, with `prompts` not its prompt, with `near`
    not nearly its texts. `report` says of each row that is dropped which one is kept for it."""
    if out.suffix != ".jsonl":
        raise UserError(f"--out {out}: rows are written as they are, expected a name that ends with .jsonl")
    repeats, places = Repeats(near), list[str]()
    faults = Faults("skip")
    for each in examples(sources_of(files, settings), faults, view):
        places.append(each.found.row.where)
        repeats.add(_one(each))
    if not places:
        raise UserError(f"no row of {', '.join(files)} can be read. See modelwright dataset check")
    firsts = repeats.firsts()
    kinds = [("duplicate", firsts.whole)]
    kinds += [("same prompt", firsts.prompt)] if prompts else []
    kinds += [("nearly a duplicate", firsts.near)] if near else []
    counts = Counter[str]()

    def kept() -> Iterator[Any]:
        with ExitStack() as stack:
            told = stack.enter_context(new_file(report)) if report else None
            for row, each in enumerate(examples(sources_of(files, settings), Faults("skip"), view)):
                why = next(((kind, int(first[row])) for kind, first in kinds if first[row] != row), None)
                if why is None:
                    yield dict(each.found.row.fields)
                    continue
                counts[why[0]] += 1
                if told:
                    said = {"where": places[row], "kind": why[0], "kept": places[why[1]]}
                    told.write(json.dumps(said) + "\n")

    rows = write_rows(out, kept())
    not_read = dict(faults.left_out)
    return {"file": str(out), "rows": rows, "dropped": dict(counts), "not_read": not_read}


def _one(each: Examples) -> Conversation | Preference:
    """What is made of a row as one, for rows of which several are made (trees)."""
    first = each.made[0]
    if len(each.made) == 1 or isinstance(first, Preference):
        return first
    turns = tuple(turn for made in each.made if isinstance(made, Conversation) for turn in made.messages)
    return Conversation(messages=turns)


def convert(files: Sequence[str], settings: dict[str, Any], out: Path, view: View) -> dict[str, Any]:
    """Write conversations as OpenAI's messages, pairs as TRL's; other fields of a row go along. What has no
    place there is counted by its name."""
    faults, missing, read = Faults("skip"), Counter[str](), Counter[str]()

    def rows() -> Iterator[dict[str, Any]]:
        for each in examples(sources_of(files, settings), faults, view):
            missing.update(set(lost(each.found.fields)))
            read[str(each.found.layout)] += 1
            for example in each.made:
                yield as_row(example, others(each.found.fields, each.found.layout))

    count = write_rows(out, rows())
    not_read = dict(faults.left_out)
    return {"file": str(out), "rows": count, "read": dict(read), "lost": dict(missing), "not_read": not_read}
