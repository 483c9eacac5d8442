"""prepare: raw text -> clean documents with their provenance, as train and validation Parquet."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import Field

from modelwright.base.artifact import Artifact
from modelwright.base.errors import UserError
from modelwright.base.files import atomic_directory, atomic_path, link, sha256_text, write_json
from modelwright.base.metrics import counted
from modelwright.base.policy import refuse
from modelwright.base.provenance import Provenance
from modelwright.base.room import saying_when_full
from modelwright.base.run import Run
from modelwright.data.corpus import shard_name
from modelwright.data.decontaminate.items import read_items
from modelwright.data.decontaminate.settings import BARS
from modelwright.data.execution import Execution, Performer, alone_in
from modelwright.data.pipeline.plan import (
    CLEAN,
    DROPPED_FOLDER,
    INDEX,
    ITEMS_FILE,
    REPEATS,
    REPORT_FILE,
    RESOLVE,
    WRITE,
    Plan,
    named_filters,
    outside,
    write_items,
    write_plan,
)
from modelwright.data.pipeline.shard import (
    CLEAN_PHASE,
    DROPPED,
    FILES,
    WRITE_PHASE,
    Shard,
    read_shard,
    shard_folder,
)
from modelwright.data.pipeline.sides import fill_the_empty_side
from modelwright.data.pipeline.tally import Tally
from modelwright.data.readers.faults import Faults
from modelwright.data.readers.units import Unit, units
from modelwright.data.sources import mark, stated, statements
from modelwright.data.split import SIDES
from modelwright.environments.items import known_items
from modelwright.stages.corpus_report import Findings, funnel, write_report

INPUTS: tuple[str, ...] = ()

WORK, SOURCES_FILE = "work", "sources.json"
"""Unfinished units; path, size and sha256 of every raw file that was read."""
UNLISTED_FILE = "_unlisted.json"
"""In the folder of what went: files that were passed over before they were read. Who reads the folder as
Parquet does not see it."""


class Config(Plan):
    """Which texts, what is done to them, and by whom."""

    execution: Execution = Field(default=Execution(), exclude=True)
    """Processes here, or Ray. Not part of the fingerprint: what is made does not depend on it."""


def sources(config: Config) -> str:
    """A mark of what the sources hold now, and what filters and evaluation sets read beside them: when it
    changes, the stage runs anew."""
    return sha256_text(mark(config.sources) + outside(config))


def facts(config: Config) -> Provenance:
    """What the sources state, for the policy: known before any work."""
    return stated(config.sources, config.masks)


def run(config: Config, run: Run) -> Artifact:
    """Read, clean, find what repeats, decontaminate, split and write the documents."""
    if not config.sources:
        raise UserError("data.sources is empty: name at least one file, folder or glob, or 'atlas'")
    refuse(config.policy.breaches(facts(config)), "prepare")
    list(named_filters(config))  # what a filter lacks is said before any work
    for path in config.decontaminate.sets:
        if not Path(path).exists():
            raise UserError(f"data.decontaminate.sets: there is no '{path}'")
    with saying_when_full(run.dir), alone_in(run.dir / WORK):
        return make(config, run, run.dir / WORK)


def make(config: Config, run: Run, folder: Path) -> Artifact:
    """All phases, by workers; then what they have left, put together."""
    unlisted: list[dict[str, str]] = []
    faults = Faults(config.on_error, lambda where, why: unlisted.append({"file": where, "why": str(why)}))
    found = told(units(config.sources, config.unit_bytes, faults), run)
    planned = write_plan(folder, config, run.seed, found)
    num_units = len(planned.sources)
    ours = [config.sources[source].is_atlas for source in planned.sources]
    total = planned.num_bytes + sum(ours) * config.atlas_size_bytes
    numbers = range(num_units)
    with Performer(config.execution, folder, total, run.log, trusted=all(ours)) as perform:
        with run.progress("bytes cleaned and hashed", total + planned.file_bytes) as bar:
            left = perform(CLEAN, numbers, bar.advance)
        documents, size = (sum(each[key] for each in left.values()) for key in ("rows_out", "bytes_out"))
        with run.progress("looks for duplicates", documents * config.duplicates.looks_at_documents) as bar:
            resolved = perform(RESOLVE, [num_units], bar.advance)[num_units]
        if config.duplicates.within:
            with run.progress(
                "bytes looked through for repeats", size * config.duplicates.looks_at_bytes
            ) as bar:
                resolved |= perform(REPEATS, [num_units], bar.advance)[num_units]
        indexed = None
        if lay_down_items(config, folder):
            run.log("evaluation items are indexed, and some planted in texts of this corpus")
            indexed = perform(INDEX, [num_units])[num_units]
            say_recall(run, indexed)
        with run.progress("bytes written", total) as bar:
            perform(WRITE, numbers, bar.advance)
    cleaned, written = (
        [read_shard(shard_folder(folder, phase, number)) for number in numbers]
        for phase in (CLEAN_PHASE, WRITE_PHASE)
    )
    metrics = summary(cleaned, written, resolved)
    metrics["skipped"] = added([metrics["skipped"], faults.counts, faults.passed_over])
    if indexed:
        metrics |= {"evaluation_items": indexed["items"], "decontamination": indexed["recall"]}
    kept = metrics["train_documents"] + metrics["validation_documents"]
    if kept:
        for key, change in assemble(config, run, folder, num_units, unlisted).items():
            metrics[key] = metrics.get(key, 0) + change
    say_where_they_went(run, metrics)
    total_tally = Tally.total(tally for shard in written for tally in shard.about["tallies"].values())
    brought = Provenance.tally(total_tally.provenance_rows()).stating(statements(config.sources))
    findings = Findings(
        plan=config,
        seed=run.seed,
        source_of=planned.sources,
        cleaned=cleaned,
        written=written,
        resolved=resolved,
        metrics=metrics,
        provenance=brought,
        suites=items_by_suite(folder),
    )
    write_report(run.dir / REPORT_FILE, findings)
    if not kept:
        raise UserError(f"no document is left to train on.\n{table(metrics)}")
    write_sources(run.dir / SOURCES_FILE, folder, num_units)
    run.brings_in(brought)
    shutil.rmtree(folder)
    run.log("the corpus is whole; its files are hashed for the manifest")
    return run.finish([*SIDES, DROPPED_FOLDER, SOURCES_FILE, REPORT_FILE], metrics)


SECONDS_BETWEEN_LINES = 5.0


def told(found: Iterable[Unit], run: Run) -> Iterator[Unit]:
    """The same units; the log says now and then how far planning is, since it looks through large files for
    the ends of lines."""
    size, last = 0, time.monotonic()
    for number, unit in enumerate(found, 1):
        yield unit
        size += unit.num_bytes
        if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
            run.log(f"planning: {counted(number, 'unit')} of input so far, {size:,} bytes")
            last = time.monotonic()


def lay_down_items(config: Config, folder: Path) -> bool:
    """Write what the corpus is held against; False where there is nothing to hold against it."""
    (folder / ITEMS_FILE).unlink(missing_ok=True)
    if not config.decontaminate.enabled or all(source.is_atlas for source in config.sources):
        return False
    sets = (item for path in config.decontaminate.sets for item in read_items(Path(path)))
    write_items(folder, chain(known_items(), sets))
    return True


def items_by_suite(folder: Path) -> Counter[str]:
    """How many items the corpus was held against, by suite."""
    path = folder / ITEMS_FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return Counter(json.loads(line)[0] for line in lines)


def say_recall(run: Run, indexed: dict[str, Any]) -> None:
    """What this run's own injection test found, for the log."""
    counts = "; ".join(f"{kind} {count:,}" for kind, count in indexed["items"].items())
    run.log(f"evaluation items: {counts}; of the usable {indexed['fragile']:,} hang on a single word")
    if "says" in indexed:
        run.log(indexed["says"])
        return
    found = {kind: each["found"] / each["planted"] for kind, each in indexed["recall"].items()}
    said = (
        f"{kind} {share:.1%}" + (f" (LOW: {BARS[kind]:.0%} asked)" if share < BARS.get(kind, 0) else "")
        for kind, share in found.items()
    )
    run.log(f"of usable items planted in texts of this corpus are found: {'; '.join(said)}")
    every = "; ".join(f"{kind} {each['of_all']:.1%}" for kind, each in indexed["recall"].items())
    run.log(f"of all items, those too generic to be told from text included: {every}")


def summary(cleaned: Sequence[Shard], written: Sequence[Shard], resolved: dict[str, Any]) -> dict[str, Any]:
    """The figures of the manifest."""
    near = resolved.get("near")
    metrics: dict[str, Any] = {
        "steps": [
            {name: flow[name] for name in ("step", "documents", "bytes")} for flow in funnel(cleaned, written)
        ],
        "dropped": added(shard.about["dropped"] for shard in (*cleaned, *written)),
        "skipped": added(shard.about["skipped"] for shard in cleaned),
        "near_duplicates": {key: value for key, value in near.items() if key != "largest"} if near else None,
    }
    for side in SIDES:
        tally = Tally.total(shard.about["tallies"][side] for shard in written)
        metrics |= {f"{side}_documents": tally.documents, f"{side}_bytes": tally.bytes}
    return metrics


def added(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    """Sums by name."""
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(sorted(total.items()))


def assemble(
    config: Config, run: Run, folder: Path, num_units: int, unlisted: list[dict[str, str]]
) -> dict[str, int]:
    """The units' files as one corpus, without a copy where the disk can link; what changed sides."""
    for side in SIDES:
        with atomic_directory(run.dir / side) as target:
            for number in range(num_units):
                link(
                    shard_folder(folder, WRITE_PHASE, number) / f"{side}.parquet", target / shard_name(number)
                )
    fraction = config.validation_fraction
    moved = fill_the_empty_side(run.dir / "train", run.dir / "validation", fraction)
    with atomic_directory(run.dir / DROPPED_FOLDER) as target:
        write_json(target / UNLISTED_FILE, unlisted)
        for phase in (CLEAN_PHASE, WRITE_PHASE):
            for number in range(num_units):
                name = f"{phase}-{shard_name(number)}"
                link(shard_folder(folder, phase, number) / DROPPED, target / name)
    return moved


def write_sources(target: Path, folder: Path, num_units: int) -> None:
    """Path, size and sha256 of every raw file, as the units have found them; each file once."""
    seen: set[str] = set()
    with atomic_path(target) as path, path.open("w", encoding="utf-8") as out:
        for number in range(num_units):
            with (shard_folder(folder, CLEAN_PHASE, number) / FILES).open(encoding="utf-8") as lines:
                for line in lines:
                    if line not in seen:
                        out.write(",\n" if seen else "[\n")
                        out.write(line.rstrip("\n"))
                        seen.add(line)
        out.write("\n]\n" if seen else "[]\n")


def say_where_they_went(run: Run, metrics: dict[str, Any]) -> None:
    """The funnel, for the log."""
    run.log(table(metrics))
    for side in SIDES:
        documents = counted(metrics[f"{side}_documents"], "document")
        run.log(f"{side}: {documents}, {metrics[f'{side}_bytes']:,} bytes")


def table(metrics: dict[str, Any]) -> str:
    """Documents after each step, and the rules that took the others."""
    passed = "; ".join(f"{flow['step']} {flow['documents']:,}" for flow in metrics["steps"])
    ranked = Counter(metrics["dropped"]).most_common()
    went = "; ".join(f"{rule} {count:,}" for rule, count in ranked)
    skipped = "; ".join(f"{kind} {count:,}" for kind, count in metrics["skipped"].items())
    unread = f" Not read: {skipped}." if skipped else ""
    return f"documents after each step: {passed}. Taken out: {went or 'none'}.{unread}"
