"""`modelwright forget`: what holds a text, what becomes of it, and what is left for the user to do."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.console import Console

from modelwright.terminal.printable import printable

YOURS = (
    "the raw texts, where the recipe read them: they are not touched",
    "copies outside this run: exports that were shipped, models that were uploaded, backups",
    "quality models and evaluation sets that were made from the same texts",
)
"""What no command can do."""


def show_seen(names: Sequence[str], seen: Sequence[Any], done: bool, as_json: bool) -> None:
    """Print where sources or documents are, what saw them, and what is removed and made again. `seen` are
    `life.seen.Seen`, as they were before anything was changed."""
    if as_json:
        print(json.dumps(_as_json(names, seen, done), indent=2))
        return
    console = Console(markup=False, highlight=False)
    for name, found in zip(names, seen, strict=True):
        for line in _found(name, found):
            console.print(printable(line), soft_wrap=True)
    if all(found.target.is_done for found in seen):
        console.print("Nothing is left to do.")
        return
    for line in _what_happens(seen, done):
        console.print(printable(line), soft_wrap=True)
    if not done:
        command = shlex.join(["modelwright", "forget", str(seen[0].folder), *names, "--yes"])
        console.print(f"Nothing was changed. To do it: {command}", soft_wrap=True)


def _as_json(names: Sequence[str], seen: Sequence[Any], done: bool) -> dict[str, Any]:
    return {
        "done": done,
        "found": {name: _facts(found) for name, found in zip(names, seen, strict=True)},
        "removed": _union(found.removed for found in seen),
        "edited": _union(found.edited for found in seen),
        "made_again": _union(found.again for found in seen),
        "unfinished": _union(found.unfinished for found in seen),
        "made_from_it_elsewhere": _union(found.elsewhere for found in seen),
        "yours_to_do": list(YOURS),
    }


def _facts(found: Any) -> dict[str, Any]:
    target = found.target
    return {
        "kind": "document" if target.source is None else "source",
        "forgotten_before": target.is_done,
        "documents": sorted(target.documents),
        "places": [
            {"path": str(p.path), "side": p.side, "documents": p.documents, "near_copies": p.copies}
            for p in found.shards
        ],
        "models": [{"role": m.role, "id": m.id, "path": str(m.path)} for m in found.models],
        "piece_of": sorted(target.wholes),
        "nearly_repeats": sorted(target.originals),
        "blocked": found.blocked,
    }


def _found(name: str, found: Any) -> Iterator[str]:
    target = found.target
    if target.is_done:
        yield f"{name}: forgotten here before; nothing in this run holds it."
        return
    yield f"{name}: {'a document' if target.source is None else 'a source'}"
    places = [p for p in found.shards if p.documents]
    yield f"  files that hold it: {len(places) or 'none'}"
    for place in places:
        yield f"    {place.path}  {_count(place.documents, 'document')} ({place.side})"
    copies = sum(place.copies for place in found.shards)
    if copies:
        yield f"  {_count(copies, 'dropped document')} nearly the same: the texts are taken out too"
    yield f"  models trained on it: {len(found.models) or 'none'}"
    for made in found.models:
        yield f"    {made.role}  {made.id[:12]}  {made.path}"
    for whole in sorted(target.wholes):
        yield f"  It is a piece of {whole}, of which the other pieces stay. Name that id to forget all of it."
    for original in sorted(target.originals):
        yield f"  It nearly repeats {original}, which stays. Name that id too to forget both."
    for path in found.elsewhere:
        yield f"  {path}, in another run, was made from it. Forget it there too, or remove that."
    if found.blocked:
        yield f"  {found.blocked}"


def _what_happens(seen: Sequence[Any], done: bool) -> Iterator[str]:
    edited, removed = (_union(getattr(found, name) for found in seen) for name in ("edited", "removed"))
    again, open_ends = (_union(getattr(found, name) for found in seen) for name in ("again", "unfinished"))
    for path in edited:
        yield f"{'Edited' if done else 'Would be edited'} where it lies: {path}"
    for path in removed:
        yield f"{'Removed' if done else 'Would be removed'}: {path}"
    if again:
        yield f"{'Made again' if done else 'Would then be made again'}: {', '.join(again)}"
    left = [verb for verb in open_ends if verb not in again]
    if left:
        yield f"Not made again, since it was not finished: {', '.join(left)}. modelwright run begins it anew."
    yield "Yours to do, as far as it applies:"
    yield from (f"  {line}" for line in YOURS)


def _union(parts: Iterable[Iterable[Any]]) -> list[str]:
    return list(dict.fromkeys(str(each) for part in parts for each in part))


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
