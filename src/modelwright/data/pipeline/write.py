"""The write phase: what is left of a unit -> its documents of the corpus, train and validation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from modelwright.base.errors import DamagedFile
from modelwright.base.files import canonical_json, sha256_text
from modelwright.base.schema import Document, Reason
from modelwright.base.seams import Drop, Step
from modelwright.data.corpus import DocumentsFile, read_documents
from modelwright.data.decontaminate import step as decontamination
from modelwright.data.execution.beat import Beat
from modelwright.data.pipeline.clean import KILLED, RAISED, check_documents
from modelwright.data.pipeline.contamination import load_index
from modelwright.data.pipeline.dropped import Dropped, write_dropped
from modelwright.data.pipeline.forgotten import Forgotten
from modelwright.data.pipeline.plan import ITEMS_FILE, Plan, read_plan, read_unit
from modelwright.data.pipeline.repeats import repeats_folder, without_repeats
from modelwright.data.pipeline.resolve import EXACT, KEPT, Verdicts, resolve_folder
from modelwright.data.pipeline.samples import Group, place_of
from modelwright.data.pipeline.shard import (
    CLEAN_PHASE,
    DOCUMENTS,
    DROPPED,
    WRITE_PHASE,
    Shard,
    check_once,
    check_shard,
    find_shard,
    make_shard,
    shard_folder,
)
from modelwright.data.pipeline.tally import Tally
from modelwright.data.readers.faults import OnError
from modelwright.data.split import SIDES, side_of
from modelwright.data.steps import Record, chain, one_by_one

SHOWN = 8
"""Documents of the corpus that its report shows."""


def write(folder: Path, number: int, beat: Beat) -> dict[str, Any]:
    """Write one unit's part of the corpus; its counts."""
    plan, _ = read_plan(folder)
    unit = read_unit(folder, number)
    shard = check_shard(shard_folder(folder, CLEAN_PHASE, number))
    share = unit.num_bytes // max(shard.rows_out, 1)
    settings = {
        "decontaminate": plan.decontaminate.model_dump(),
        "forget": sorted(plan.forget),
        "validation_fraction": plan.validation_fraction,
        "keep": plan.keep_dropped,
    }
    items = (folder / ITEMS_FILE).is_file()
    decided = [resolve_folder(folder), *([repeats_folder(folder)] if plan.duplicates.within else [])]
    made_from = [
        settings,
        shard.mark,
        *(check_once(place).mark for place in decided),
        load_index(folder)[1] if items else "",
    ]

    def make(target: Path) -> tuple[int, int, int, dict[str, Any]]:
        return _make(folder, plan, number, shard, beat, share, target)

    mark = sha256_text(canonical_json(made_from))
    target = shard_folder(folder, WRITE_PHASE, number)
    written = find_shard(target, mark)
    if written:
        beat.advance(unit.num_bytes)
    else:
        written = make_shard(target, mark, make)
        beat.advance(unit.num_bytes - shard.rows_out * share)
    return {"rows_in": written.rows_in, "rows_out": written.rows_out}


def _make(
    folder: Path, plan: Plan, number: int, shard: Shard, beat: Beat, share: int, target: Path
) -> tuple[int, int, int, dict[str, Any]]:
    tallies = {side: Tally() for side in SIDES}
    shown, hits = Group(SHOWN), dict[str, Group]()
    source = shard_folder(folder, CLEAN_PHASE, number)
    with (
        write_dropped(target / DROPPED, plan.keep_dropped, plan.forget) as dropped,
        DocumentsFile(target / "train.parquet") as train,
        DocumentsFile(target / "validation.parquet") as validation,
    ):
        raw = _noted(read_documents(source / DOCUMENTS), beat, share)
        steps = write_steps(plan, folder, number, beat)
        documents, flows = chain(raw, steps, _by_suite(dropped, hits))
        for document in documents:
            side = side_of(str(document.meta.get("whole", document.id)), plan.validation_fraction)
            tallies[side].add(document)
            shown.add(document)
            with beat.together():  # written in groups
                (train if side == "train" else validation).add(document)
        beat.nobody()
    check_documents(source, shard.rows_out, flows[0].documents)
    about = {
        "flows": [{"step": f.step, "documents": f.documents, "bytes": f.bytes} for f in flows],
        "dropped": dict(sorted(dropped.counts.items())),
        "rules": dropped.rules(),
        "hits": {suite: group.as_json() for suite, group in sorted(hits.items())},
        "shown": shown.as_json(),
        "tallies": {side: tally.as_json() for side, tally in tallies.items()},
    }
    rows_out = sum(tally.documents for tally in tallies.values())
    return flows[0].documents, rows_out, sum(tally.bytes for tally in tallies.values()), about


def write_steps(plan: Plan, folder: Path, number: int, beat: Beat) -> list[tuple[str, Step]]:
    """What the documents go through that were read and cleaned. The embedded corpus is not held against the
    suites: they ask about its facts, and it keeps apart by construction what no text may hold."""
    verdicts = Verdicts(folder, number)
    is_atlas = plan.sources[read_unit(folder, number).source].is_atlas
    blamed = blaming(plan.on_error, beat)
    steps: list[tuple[str, Step]] = [("duplicates", without_duplicates(verdicts, blamed))]
    if plan.duplicates.within:
        rows = [row for row in verdicts.kept() if not beat.is_to_blame(row)]
        steps.append(("repeats", without_repeats(folder, number, rows, plan.duplicates.removal)))
    if (folder / ITEMS_FILE).is_file() and not is_atlas:
        clean_of_items = decontamination.step(load_index(folder)[0])
        steps.append(("decontaminate", one_by_one(clean_of_items) if beat.careful else clean_of_items))
    if plan.forget:
        steps.append(("forget", forgetting(plan.forget)))
    return steps


Blamed = Callable[[int, Document], Reason | None]
"""(row of the unit, its document) -> why it is left out, of those that are to blame."""


def blaming(on_error: OnError, beat: Beat) -> Blamed:
    """What to do with a document on which processes died or steps raised an error in this phase: stop, or
    leave it out."""

    def blamed(row: int, document: Document) -> Reason | None:
        if not beat.is_to_blame(row):
            return None
        error = beat.error_on(row)
        what = error or "two processes died, or hung,"
        says = f"{what} on this document ({document.id}) while it was written"
        if on_error == "fail":
            raise DamagedFile(f"{document.source}: {place_of(document)}: {says}. Take it out, or skip it")
        return Reason(RAISED if error else KILLED, says=says)

    return blamed


def without_duplicates(verdicts: Verdicts, blamed: Blamed = lambda row, document: None) -> Step:
    """A Step over a unit's documents in their order; also leaves out what is to blame."""

    def step(documents: Iterator[Document], drop: Drop) -> Iterator[Document]:
        for row, (document, fate) in enumerate(zip(documents, verdicts, strict=True)):
            if fate == KEPT:
                reason = blamed(row, document)
                if reason is None:
                    yield document
                else:
                    drop(document, reason)
                continue
            earlier, where = verdicts.first_of(row)
            rule = "exact duplicate" if fate == EXACT else "near duplicate"
            drop(document, Reason(rule, earlier, f"of {where}"))

    return step


def forgetting(names: tuple[str, ...]) -> Step:
    """A Step that leaves out sources by name, and documents by id or by that of what they were cut from."""
    forgotten = Forgotten(names)

    def step(documents: Iterator[Document], drop: Drop) -> Iterator[Document]:
        for document in documents:
            hit = forgotten.name_of(document)
            if hit is None:
                yield document
            else:
                drop(replace(document, text=""), Reason("forgotten", hit, "by request"))

    return step


def _by_suite(dropped: Dropped, hits: dict[str, Group]) -> Record:
    """Also groups what is contaminated by the suite whose item stands in it."""

    def record(step: str, document: Document, reason: Reason) -> None:
        dropped(step, document, reason)
        if reason.rule == decontamination.RULE:
            suite = reason.says.partition("/")[0]
            hits.setdefault(suite, Group(dropped.keeps)).add(document, reason)

    return record


def _noted(documents: Iterator[Document], beat: Beat, share: int) -> Iterator[Document]:
    """`share`: of the unit's bytes, one document's."""
    for number in count():
        with beat.together():  # read in groups
            document = next(documents, None)
        if document is None:
            return
        beat.at(number)
        yield document
        beat.advance(share)
