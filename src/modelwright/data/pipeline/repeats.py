"""Lines and passages that stand elsewhere in the corpus too: what to cut from the documents that stay."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modelwright.base.files import canonical_json, sha256_text
from modelwright.base.schema import Document, Reason
from modelwright.base.seams import Drop, Step
from modelwright.data.corpus import read_documents
from modelwright.data.dedup import lines, substring
from modelwright.data.dedup.ranges import Ranges, Removal, Texts, merged, remove
from modelwright.data.execution.beat import Beat
from modelwright.data.pipeline.plan import Plan, read_plan
from modelwright.data.pipeline.resolve import KEPT, Verdicts, resolve_folder
from modelwright.data.pipeline.shard import (
    CLEAN_PHASE,
    DOCUMENTS,
    check_shard,
    make_shard,
    shard_folder,
)

_COLUMNS = ("document", "start", "end")


def repeats(folder: Path, number: int, beat: Beat) -> dict[str, Any]:
    """Find the parts of all `number` units that stand elsewhere too; how much is to be cut. It advances by
    bytes of the documents that stay, each of them `Duplicates.looks_at_bytes` times."""
    plan, _ = read_plan(folder)
    duplicates = plan.duplicates
    settings = [each and each.model_dump() for each in (duplicates.lines, duplicates.passages)]
    mark = sha256_text(canonical_json([settings, check_shard(resolve_folder(folder)).mark]))

    def make(target: Path) -> tuple[int, int, int, dict[str, Any]]:
        counts = {"documents with repeated parts": 0, "bytes of repeated parts": 0}
        texts = [_texts(folder, unit, beat, target) for unit in range(number)]
        for unit, ranges in enumerate(_all_ranges(plan, texts, beat, target)):
            np.save(target / _file(unit), np.stack([getattr(ranges, name) for name in _COLUMNS]))
            counts["documents with repeated parts"] += len(np.unique(ranges.document))
            counts["bytes of repeated parts"] += int((ranges.end - ranges.start).sum())
        for path in target.glob("texts-*"):
            path.unlink()
        return 0, 0, 0, counts

    return make_shard(repeats_folder(folder), mark, make).about


def repeats_folder(folder: Path) -> Path:
    """Where the ranges lie."""
    return shard_folder(folder, "repeats", 0)


def _file(unit: int) -> str:
    return f"{unit:06d}.npy"


def _texts(folder: Path, unit: int, beat: Beat, target: Path) -> Texts:
    """The unit's texts as one memory-mapped file; a document that does not stay has length 0."""
    verdicts = Verdicts(folder, unit)
    path = target / f"texts-{unit:06d}"
    offsets = np.zeros(len(verdicts.fates) + 1, np.int64)
    documents = read_documents(shard_folder(folder, CLEAN_PHASE, unit) / DOCUMENTS)
    with path.open("wb") as file:
        for row, (document, fate) in enumerate(zip(documents, verdicts, strict=True)):
            size = file.write(document.text.encode()) if fate == KEPT else 0
            offsets[row + 1] = offsets[row] + size
    beat.advance(int(offsets[-1]))
    content = np.memmap(path, np.uint8, "r") if offsets[-1] else np.empty(0, np.uint8)
    return Texts(content, offsets)


def _all_ranges(plan: Plan, texts: Sequence[Texts], beat: Beat, target: Path) -> Iterator[Ranges]:
    """For each unit, what lines and passages together say."""
    found: list[Iterable[Ranges]] = []
    if plan.duplicates.lines:
        config = plan.duplicates.lines.model_copy(update={"memory_bytes": plan.memory_bytes})
        pieces: list[lines.Pieces] = []
        for number, unit in enumerate(texts):
            pieces.append(_pieces(unit, config, target / f"texts-pieces-{number:06d}.npy"))
            beat.advance(len(unit.content))
        stays = lines.too_many([unit.key for unit in pieces], config, target)
        found.append(lines.ranges_of(unit, stay) for unit, stay in zip(pieces, stays, strict=True))
    if plan.duplicates.passages:
        config = plan.duplicates.passages.model_copy(update={"memory_bytes": plan.memory_bytes})
        found.append(substring.repeated(texts, config, target, beat.advance))
    for ranges in zip(*found, strict=True):
        yield merged(*(np.concatenate([getattr(each, name) for each in ranges]) for name in _COLUMNS))


def _pieces(unit: Texts, config: lines.Config, path: Path) -> lines.Pieces:
    """A unit's pieces, 32 bytes each, on disk: all units' together may be more than memory holds."""
    found = lines.find_pieces(_strings(unit), config)
    columns = (found.key.view(np.int64), found.document, found.start, found.end)
    np.save(path, np.stack(columns), allow_pickle=False)
    mapped = np.load(path, mmap_mode="r", allow_pickle=False) if len(found) else np.stack(columns)
    return lines.Pieces(mapped[0].view(np.uint64), mapped[1], mapped[2], mapped[3])


def _strings(unit: Texts) -> Iterator[str]:
    for start, end in zip(unit.offsets[:-1].tolist(), unit.offsets[1:].tolist(), strict=True):
        yield unit.content[start:end].tobytes().decode()


def without_repeats(folder: Path, unit: int, rows: Iterable[int], removal: Removal) -> Step:
    """A Step over the documents of a unit that stay, in their order; `rows` are their places in the unit."""
    ranges = Ranges(*np.load(repeats_folder(folder) / _file(unit), allow_pickle=False))

    def step(documents: Iterator[Document], drop: Drop) -> Iterator[Document]:
        for row, document in zip(rows, documents, strict=True):
            left = remove(document, ranges.of(row), removal)
            if isinstance(left, Reason):
                drop(document, left)
            else:
                yield left

    return step
