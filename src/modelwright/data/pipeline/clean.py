"""The clean phase: a unit of raw input -> clean documents, and what tells repetitions over all units."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from modelwright.base.errors import DamagedFile
from modelwright.base.policy import Policy, judge_texts
from modelwright.base.provenance import personal_data_flag
from modelwright.base.schema import Document, Reason
from modelwright.base.seams import Step
from modelwright.data.atlas.documents import documents as atlas_documents
from modelwright.data.corpus import DocumentsFile
from modelwright.data.cut import CutLong
from modelwright.data.dedup import minhash
from modelwright.data.dedup.exact import HASH_BYTES
from modelwright.data.execution.beat import Beat
from modelwright.data.pipeline.dropped import write_dropped
from modelwright.data.pipeline.places import PlacesFile
from modelwright.data.pipeline.plan import Duplicates, Plan, clean_mark, named_filters, read_plan, read_unit
from modelwright.data.pipeline.samples import cover_of, place_of
from modelwright.data.pipeline.shard import (
    BANDS,
    CLEAN_PHASE,
    DOCUMENTS,
    DROPPED,
    FILES,
    HASHES,
    SIGNATURES,
    find_shard,
    make_shard,
    shard_folder,
)
from modelwright.data.pipeline.tally import Tally
from modelwright.data.readers.faults import Faults
from modelwright.data.readers.part import Part
from modelwright.data.readers.read import read_part
from modelwright.data.readers.source import Source
from modelwright.data.readers.storage import sha256_of
from modelwright.data.readers.units import Unit
from modelwright.data.sources import SourceFile
from modelwright.data.steps import chain, drop_empty, judging, one_by_one

KILLED, RAISED = "killed its process", "raised an error"
"""What a document is counted as on which processes died, or a step raised what it should not."""
_BATCH_CHARACTERS = 1 << 22


def clean(folder: Path, number: int, beat: Beat) -> dict[str, Any]:
    """Read and clean one unit; how many documents and bytes of text came out."""
    plan, seed = read_plan(folder)
    unit = read_unit(folder, number)
    target, mark = shard_folder(folder, CLEAN_PHASE, number), clean_mark(folder, unit)
    shard = find_shard(target, mark)
    if shard:
        beat.advance(unit.num_bytes + sum(part.file_bytes for part in unit.parts if part.begins))
    else:
        shard = make_shard(target, mark, lambda place: _make(plan, seed, unit, beat, place))
    return {"rows_out": shard.rows_out, "bytes_out": shard.bytes_out}


def _make(
    plan: Plan, seed: int, unit: Unit, beat: Beat, target: Path
) -> tuple[int, int, int, dict[str, Any]]:
    tally = Tally()
    signatures = _Signatures(plan.duplicates, alone=beat.careful)
    with (
        write_dropped(target / DROPPED, plan.keep_dropped, plan.forget) as dropped,
        DocumentsFile(target / DOCUMENTS) as out,
        PlacesFile(target) as places,
    ):
        faults = Faults(plan.on_error, dropped.unread)
        raw = _read(plan, seed, unit, faults, beat)
        steps = clean_steps(plan)
        if beat.careful:
            steps = [(name, one_by_one(step)) for name, step in steps]
        documents, flows = chain(raw, steps, dropped)
        for document in documents:
            tally.add(document)
            signatures.add(document)
            with beat.together():  # written in groups
                out.add(document)
                places.add(document)
        beat.nobody()
        signatures.write(target)
        _write_sources(unit, faults, beat, target)
    unread = faults.left_out
    about = {
        "flows": [{"step": f.step, "documents": f.documents, "bytes": f.bytes} for f in flows],
        "dropped": dict(sorted((dropped.counts - unread).items())),
        "skipped": dict(sorted(unread.items())),
        "rules": dropped.rules(cover_of(plan.filters)),
        "unread": dropped.not_read(),
        "tally": tally.as_json(),
    }
    return flows[0].documents, tally.documents, tally.bytes, about


def clean_steps(plan: Plan) -> list[tuple[str, Step]]:
    """What every document goes through alone, in order."""
    cut: list[tuple[str, Step]] = []
    if plan.max_document_characters:
        cut = [("cut", CutLong(plan.max_document_characters))]
    return [("empty", drop_empty), *cut, *named_filters(plan), ("policy", policy_step(plan.policy))]


def policy_step(policy: Policy) -> Step:
    """Documents that state for themselves what the policy does not allow go. What a source states as a
    whole was held against the policy before any work."""
    broken = judge_texts(policy)

    def judge(document: Document) -> Reason | None:
        flag = personal_data_flag(document.personal_data, "masked" in document.meta)
        breach = broken(document.licence, document.jurisdiction, flag)
        return breach and breach.as_reason()

    return judging(judge)


def _read(plan: Plan, seed: int, unit: Unit, faults: Faults, beat: Beat) -> Iterator[Document]:
    """The unit's documents, each noted before it is read and before it is worked on, so that a death is
    blamed on the right one. Numbers stay the same whatever is to blame: the end of a part has one too."""
    source = plan.sources[unit.source]
    if source.is_atlas:
        for number, document in enumerate(atlas_documents(seed, plan.atlas_size_bytes)):
            beat.at(number)
            yield document
            beat.advance(len(document.text.encode()))
        return
    numbers = count()
    for part in unit.parts:
        left = part.num_bytes
        for document in _read_part(part, source, numbers, faults, beat):
            yield document
            step = min(left, len(document.text))  # compressed files hold more text than bytes
            left -= step
            beat.advance(step)
        beat.advance(left)


def _read_part(
    part: Part, source: Source, numbers: Iterator[int], faults: Faults, beat: Beat
) -> Iterator[Document]:
    documents = read_part(part, source, faults)
    for read in count():
        number = next(numbers)
        if beat.is_unreadable(number):
            behind = f"{part.where}, all behind the first {read:,} documents of it"
            _blame(behind, "reading this", beat.error_on(number, reading=True), faults)
            return
        beat.reading(number)
        document = next(documents, None)
        if document is None:
            return
        beat.at(number)
        if beat.is_to_blame(number):
            where = f"{document.source}: {place_of(document)}"
            _blame(where, f"on this document ({document.id})", beat.error_on(number), faults)
        else:
            yield document


def _blame(where: str, doing: str, error: str | None, faults: Faults) -> None:
    says = f"{error} {doing}" if error else f"two processes died {doing}, or hung"
    faults(RAISED if error else KILLED, where, f"{says}. Take it out, or skip it")


def _write_sources(unit: Unit, faults: Faults, beat: Beat, target: Path) -> None:
    """Path, size and hash of the files that begin in this unit, one a line."""
    with (target / FILES).open("w", encoding="utf-8") as file:
        for part in unit.parts:
            if part.begins:
                try:
                    digest = sha256_of(part.path, beat.advance)
                except OSError as error:
                    faults("file gone", part.where, f"cannot be read again: {error}")
                    continue
                found = SourceFile(path=part.where, bytes=part.file_bytes, sha256=digest)
                file.write(found.model_dump_json() + "\n")


class _Signatures:
    """Hashes and MinHash band keys of the documents, in their order; memory is 130 bytes a document, and
    900 more where likeness is to be estimated. `alone`: each document's are made at once, not in batches."""

    def __init__(self, duplicates: Duplicates, alone: bool = False) -> None:
        self._near = duplicates.near
        self._batch_characters = 0 if alone else _BATCH_CHARACTERS
        self._keeps = duplicates.min_similarity > 0
        self._signatures: list[np.ndarray] = []
        self._hashes: list[bytes] = []
        self._texts: list[str] = []
        self._waiting = 0
        self._bands: list[np.ndarray] = []

    def add(self, document: Document) -> None:
        self._hashes.append(bytes.fromhex(document.id)[:HASH_BYTES])
        if self._near:
            self._texts.append(document.text)
            self._waiting += len(document.text)
            if self._waiting >= self._batch_characters:
                self._flush()

    def _flush(self) -> None:
        if self._near and self._texts:
            signatures = minhash.signatures(self._texts, self._near)
            self._bands.append(minhash.band_keys(signatures, self._near))
            if self._keeps:
                self._signatures.append(signatures)
        self._texts, self._waiting = [], 0

    def write(self, target: Path) -> None:
        hashes = np.frombuffer(b"".join(self._hashes), np.uint8).reshape(-1, HASH_BYTES)
        np.save(target / HASHES, hashes, allow_pickle=False)
        if self._near:
            self._flush()
            empty = np.empty((0, self._near.bands), np.uint64)
            np.save(target / BANDS, np.concatenate([empty, *self._bands]), allow_pickle=False)
        if self._near and self._keeps:
            empty = np.empty((0, self._near.hashes), np.uint64)
            np.save(target / SIGNATURES, np.concatenate([empty, *self._signatures]), allow_pickle=False)


def check_documents(target: Path, expected: int, found: int) -> None:
    """A shard must hold as many documents as its manifest says."""
    if expected != found:
        raise DamagedFile(f"{target} holds {found:,} documents, its manifest says {expected:,}")
