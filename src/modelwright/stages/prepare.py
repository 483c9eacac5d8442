"""prepare: raw text -> clean documents with their provenance, as train and validation Parquet."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from itertools import chain as concatenate
from typing import Any

from pydantic import Field

from modelwright.base import config
from modelwright.base.artifact import Artifact
from modelwright.base.errors import UserError
from modelwright.base.files import atomic_path, write_json
from modelwright.base.provenance import Provenance
from modelwright.base.run import Run
from modelwright.base.schema import Document, Reason
from modelwright.base.seams import Step
from modelwright.data import filters
from modelwright.data.corpus import read_corpus, write_corpus
from modelwright.data.cut import CutLong
from modelwright.data.dedup import ExactDuplicates
from modelwright.data.readers.faults import Faults, OnError
from modelwright.data.readers.source import Source
from modelwright.data.sources import describe, documents_from, input_bytes, mark
from modelwright.data.split import Side, split
from modelwright.data.steps import Flow, chain, drop_empty

INPUTS: tuple[str, ...] = ()

DROPPED_FILE = "dropped.jsonl"
SOURCES_FILE = "sources.json"
"""Path, size and sha256 of every raw file that was read."""


class Config(config.Config):
    """Which texts, and what is done to them."""

    sources: tuple[Source, ...] = (Source(path="atlas"),)
    """"atlas", files, folders, globs; or mappings with path, licence, jurisdiction, personal_data..."""
    atlas_size_bytes: int = Field(default=5_000_000, gt=0)
    """How much text is generated where "atlas" is a source."""
    max_document_characters: int = Field(default=20_000, ge=0)
    """Longer documents are cut at paragraph ends, so that one book still gives a validation set. 0: never."""
    filters: tuple[dict[str, Any], ...] = ()
    """Filters in order, each with its name and settings: [{name: length, min_characters: 200}]."""
    validation_fraction: float = Field(default=0.02, ge=0.0, le=0.5)
    """Share of documents that is kept for validation, chosen by the hash of the text."""
    on_error: OnError = "fail"
    """A file or row that cannot be read: "fail" names it and stops, "skip" counts it and goes on."""


def sources(config: Config) -> str:
    """A mark of what the sources hold now: when it changes, the stage runs anew."""
    return mark(config.sources)


def run(config: Config, run: Run) -> Artifact:
    """Read, clean, split and write the documents."""
    if not config.sources:
        raise UserError("data.sources is empty: name at least one file, folder or glob, or 'atlas'")
    files_read = [file.model_dump() for file in describe(config.sources)]
    with dropped_documents(run) as (record, reasons):
        faults = Faults(
            config.on_error,
            lambda where, reason: record("read", None, where, str(reason)),
        )
        flows, sizes = write_documents(config, run, faults, record)
    write_json(run.dir / SOURCES_FILE, files_read)
    say_where_they_went(run, flows, sizes, reasons)
    if not sum(documents for documents, _ in sizes.values()):
        raise UserError(f"no document is left to train on.\n{table(flows, reasons)}")
    metrics: dict[str, Any] = {
        "steps": [{"step": f.step, "documents": f.documents, "bytes": f.bytes} for f in flows],
        "dropped": dict(sorted((reasons - faults.counts).items())),
        "skipped": dict(sorted(faults.counts.items())),
    }
    for side, (documents, size) in sizes.items():
        metrics |= {f"{side}_documents": documents, f"{side}_bytes": size}
    written = concatenate.from_iterable(read_corpus(run.dir / side) for side in sizes)
    files = ["train", "validation", DROPPED_FILE, SOURCES_FILE]
    run.brings_in(Provenance.of(written))
    return run.finish(files, metrics)


def steps(config: Config) -> list[tuple[str, Step]]:
    """What every document goes through, in order."""
    cut: list[tuple[str, Step]] = []
    if config.max_document_characters:
        cut = [("cut", CutLong(config.max_document_characters))]
    return [
        ("empty", drop_empty),
        *cut,
        ("duplicates", ExactDuplicates()),
        *(filters.build(settings) for settings in config.filters),
    ]


Record = Callable[[str, str | None, str, str], None]
"""Gets (step, document id or None, source, reason)."""


@contextmanager
def dropped_documents(run: Run) -> Generator[tuple[Record, Counter[str]]]:
    """Writes dropped.jsonl, and counts by the kind of reason (the words before the colon)."""
    reasons: Counter[str] = Counter()
    with atomic_path(run.dir / DROPPED_FILE) as path, path.open("w", encoding="utf-8") as file:

        def record(step: str, identity: str | None, source: str, reason: str) -> None:
            reasons[reason.split(":", 1)[0]] += 1
            line = {"id": identity, "source": source, "step": step, "reason": reason}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

        yield record, reasons


def write_documents(
    config: Config, run: Run, faults: Faults, record: Record
) -> tuple[list[Flow], dict[Side, tuple[int, int]]]:
    """The flows of all steps, and (documents, bytes) of each side."""

    def dropped(step: str, document: Document, reason: Reason) -> None:
        record(step, document.id, str(document.meta.get("file", document.source)), str(reason))

    total = input_bytes(config.sources, config.atlas_size_bytes)
    with (
        run.progress("bytes read", total) as task,
        write_corpus(run.dir / "train") as train,
        write_corpus(run.dir / "validation") as validation,
    ):
        raw = documents_from(config.sources, run.seed, config.atlas_size_bytes, faults, task.advance)
        clean, flows = chain(raw, steps(config), dropped)
        for side, document in split(clean, config.validation_fraction):
            (train if side == "train" else validation).add(document)
    sizes: dict[Side, tuple[int, int]] = {
        "train": (train.num_documents, train.num_bytes),
        "validation": (validation.num_documents, validation.num_bytes),
    }
    return flows, sizes


def say_where_they_went(
    run: Run, flows: Iterable[Flow], sizes: dict[Side, tuple[int, int]], reasons: Counter[str]
) -> None:
    """The funnel, for the log."""
    run.log(table(flows, reasons))
    for side, (documents, size) in sizes.items():
        run.log(f"{side}: {documents:,} documents, {size:,} bytes")
    if not sizes["validation"][0] and sizes["train"][0]:
        run.log("no document is left for validation: give more text, or a larger data.validation_fraction")


def table(flows: Iterable[Flow], reasons: Counter[str]) -> str:
    """Documents after each step, and the reasons of those that went."""
    passed = "; ".join(f"{flow.step} {flow.documents:,}" for flow in flows)
    went = "; ".join(f"{reason} {count:,}" for reason, count in reasons.most_common())
    return f"documents after each step: {passed}. Taken out: {went or 'none'}."
