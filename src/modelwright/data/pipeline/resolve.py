"""The resolve phase: over all units, which documents repeat earlier ones, exactly or nearly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from modelwright.base.files import canonical_json, sha256_text
from modelwright.data.dedup import cluster
from modelwright.data.dedup.arrays import new_npy
from modelwright.data.dedup.exact import first_places
from modelwright.data.dedup.report import report
from modelwright.data.execution.beat import Beat
from modelwright.data.pipeline.places import read_place
from modelwright.data.pipeline.plan import Duplicates, Plan, read_plan
from modelwright.data.pipeline.shard import (
    BANDS,
    CLEAN_PHASE,
    DOCUMENTS,
    HASHES,
    SIGNATURES,
    Shard,
    check_shard,
    make_shard,
    shard_folder,
)

FATES, FIRSTS, OFFSETS = "fates.npy", "firsts.npy", "offsets.npy"
KEPT, EXACT, NEAR = 0, 1, 2
"""What becomes of a document."""

Fates = NDArray[np.uint8]


def resolve(folder: Path, number: int, beat: Beat) -> dict[str, Any]:
    """Decide for all documents of the `number` units; what was found. It advances by documents looked at,
    each of them `Duplicates.looks_at_documents` times."""
    plan, _ = read_plan(folder)
    places = [shard_folder(folder, CLEAN_PHASE, unit) for unit in range(number)]
    shards: list[Shard] = []
    for place in places:
        shards.append(check_shard(place))
        beat.advance(shards[-1].rows_out)
    settings = plan.duplicates.model_dump()
    mark = sha256_text(canonical_json([settings, [(shard.mark, shard.files) for shard in shards]]))

    def make(target: Path) -> tuple[int, int, int, dict[str, Any]]:
        return _make(plan, places, [shard.rows_out for shard in shards], beat, target)

    return make_shard(resolve_folder(folder), mark, make).about


def resolve_folder(folder: Path) -> Path:
    """Where the decisions lie."""
    return shard_folder(folder, "resolve", 0)


def _make(
    plan: Plan, places: Sequence[Path], sizes: Sequence[int], beat: Beat, target: Path
) -> tuple[int, int, int, dict[str, Any]]:
    total = sum(sizes)
    fates = new_npy(target / FATES, np.uint8, total)
    firsts = new_npy(target / FIRSTS, np.int64, total)
    fates[:] = KEPT
    np.save(target / OFFSETS, np.cumsum([0, *sizes]), allow_pickle=False)
    about: dict[str, Any] = {}
    if plan.duplicates.near and total:
        found = _near(plan.duplicates, plan.memory_bytes, places, beat, target)
        for rows in found.slices():
            firsts[rows] = found.parent[rows]
            fates[rows] = np.where(found.parent[rows] == np.arange(rows.start, rows.stop), KEPT, NEAR)
        about["near"] = asdict(report(found, _describer(places, sizes)))
    if plan.duplicates.exact and total:
        hashes = [np.load(place / HASHES, mmap_mode="r", allow_pickle=False) for place in places]
        done = 0
        for found in first_places(hashes, plan.memory_bytes, target):
            rows = np.flatnonzero(found != np.arange(done, done + len(found)))
            fates[done + rows], firsts[done + rows] = EXACT, found[rows]
            done += len(found)
            beat.advance(len(found))
    counts = [int(np.count_nonzero(fates == fate)) for fate in (KEPT, EXACT, NEAR)]
    about |= {"exact duplicates": counts[EXACT], "near duplicates": counts[NEAR]}
    for mapped in (fates, firsts):
        mapped.flush()
    (target / "clusters.int64").unlink(missing_ok=True)
    return total, counts[KEPT], 0, about


def _near(
    settings: Duplicates, memory_bytes: int, places: Sequence[Path], beat: Beat, target: Path
) -> cluster.Clusters:
    assert settings.near is not None
    bands = [np.load(place / BANDS, mmap_mode="r", allow_pickle=False) for place in places]
    config = cluster.Config(min_similarity=settings.min_similarity, memory_bytes=memory_bytes)
    similarity = None
    if settings.min_similarity:
        signatures = [np.load(place / SIGNATURES, mmap_mode="r", allow_pickle=False) for place in places]
        similarity = cluster.estimated(signatures, memory_bytes)
    return cluster.cluster(bands, config, target, similarity, beat.advance)


def _describer(places: Sequence[Path], sizes: Sequence[int]) -> Any:
    """place in the corpus -> (id, source, text), for the examples of a report."""
    begins = np.cumsum([0, *sizes])

    def describe(place: int) -> tuple[str, str, str]:
        unit = int(np.searchsorted(begins, place, side="right")) - 1
        row = place - int(begins[unit])
        with pq.ParquetFile(places[unit] / DOCUMENTS) as file:
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if row < rows:
                    found = file.read_row_group(group, ["id", "source", "text"]).slice(row, 1).to_pylist()[0]
                    return found["id"], found["source"], found["text"]
                row -= rows
        raise IndexError(f"document {place} of {begins[-1]}")

    return describe


class Verdicts:
    """The decisions about one unit's documents."""

    def __init__(self, folder: Path, number: int) -> None:
        place = resolve_folder(folder)
        self._begins = np.load(place / OFFSETS, allow_pickle=False)
        rows = slice(int(self._begins[number]), int(self._begins[number + 1]))
        self.fates: Fates = np.load(place / FATES, mmap_mode="r", allow_pickle=False)[rows]
        self._firsts = np.load(place / FIRSTS, mmap_mode="r", allow_pickle=False)[rows]
        self._folder = folder

    def __iter__(self) -> Iterator[int]:
        return iter(self.fates.tolist())

    def kept(self) -> list[int]:
        """The rows of the unit that stay."""
        return np.flatnonzero(np.asarray(self.fates) == KEPT).tolist()

    def first_of(self, row: int) -> tuple[str, str]:
        """Of the document that a duplicate repeats: how its id begins, and where it stood."""
        place = int(self._firsts[row])
        unit = int(np.searchsorted(self._begins, place, side="right")) - 1
        folder, number = shard_folder(self._folder, CLEAN_PHASE, unit), place - int(self._begins[unit])
        hashes = np.load(folder / HASHES, mmap_mode="r", allow_pickle=False)
        return bytes(hashes[number]).hex(), read_place(folder, number)
