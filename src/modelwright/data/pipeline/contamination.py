"""The index phase: evaluation items -> what the write phase asks, and how many it would find.

A corpus that is called clean by a filter that finds nothing is not clean, so each run plants items in
texts of its own and looks for them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from modelwright.base.errors import UserError
from modelwright.base.files import canonical_json, sha256_file, sha256_text
from modelwright.data.corpus import read_documents
from modelwright.data.decontaminate.index import Index
from modelwright.data.decontaminate.inject import inject, some_of_each
from modelwright.data.decontaminate.items import EvalItem
from modelwright.data.execution.beat import Beat
from modelwright.data.pipeline.plan import ITEMS_FILE, Plan, read_plan
from modelwright.data.pipeline.shard import (
    CLEAN_PHASE,
    DOCUMENTS,
    check_once,
    make_shard,
    read_shard,
    shard_folder,
)

PLANTED = 200
"""Evaluation items that are planted, about as many of each suite, and texts to plant them in."""
_HOST_CHARACTERS = 500
"""Shorter texts have no room to hide something in."""


def index(folder: Path, number: int, beat: Beat) -> dict[str, Any]:
    """Build the index, and measure its recall on texts of the `number` clean units; both in figures."""
    plan, seed = read_plan(folder)
    units = [shard_folder(folder, CLEAN_PHASE, unit) for unit in range(number)]
    settings = plan.decontaminate.index.model_dump()
    marks = [read_shard(unit).mark for unit in units]
    mark = sha256_text(canonical_json([settings, seed, marks, sha256_file(folder / ITEMS_FILE)]))

    def make(target: Path) -> tuple[int, int, int, dict[str, Any]]:
        return _make(plan, seed, folder, units, target)

    return make_shard(index_folder(folder), mark, make).about


def index_folder(folder: Path) -> Path:
    """Where the index lies."""
    return shard_folder(folder, "index", 0)


def load_index(folder: Path) -> tuple[Index, str]:
    """The index and its mark, mapped into memory once a process."""
    mark = check_once(index_folder(folder)).mark
    return _loaded(index_folder(folder), mark), mark


@lru_cache(maxsize=1)
def _loaded(place: Path, mark: str) -> Index:
    return Index.load(place)


def _make(
    plan: Plan, seed: int, folder: Path, units: Sequence[Path], target: Path
) -> tuple[int, int, int, dict[str, Any]]:
    lines = (folder / ITEMS_FILE).read_text(encoding="utf-8").splitlines()
    items = [EvalItem(*json.loads(line)) for line in lines]
    built = Index.build(items, plan.decontaminate.index)
    built.save(target)
    about: dict[str, Any] = {"items": dict(sorted(built.coverage().items()))}
    about["fragile"] = sum(1 for _ in built.fragile())
    hosts = list(islice(_hosts(units), PLANTED))
    suites = {item.suite for item in items}
    sample = some_of_each(items, -(-PLANTED // max(1, len(suites))), seed)
    try:
        recall = inject(built, sample, hosts, seed)
    except UserError as error:  # no texts, or none without an item: nothing can be planted
        return len(items), 0, 0, about | {"recall": {}, "says": str(error)}
    about["recall"] = {
        kind: {
            "found": share.count,
            "planted": share.total,
            "low": round(share.interval[0], 4),
            "high": round(share.interval[1], 4),
            "of_all": round(recall.found[kind].value, 4),
        }
        for kind, share in recall.usable.items()
        if share.total
    }
    return len(items), len(items), 0, about


def _hosts(units: Sequence[Path]) -> Iterator[str]:
    for unit in units:
        for document in read_documents(unit / DOCUMENTS):
            if len(document.text) >= _HOST_CHARACTERS:
                yield document.text
