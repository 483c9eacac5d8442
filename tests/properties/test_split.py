"""For any corpus: each document on one side, the same in whatever order and units, near the share asked."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from math import sqrt
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.base.files import sha256_text
from modelwright.base.schema import Document
from modelwright.data.corpus import DocumentsFile, read_corpus, read_documents, shard_name
from modelwright.data.execution import Execution, Performer
from modelwright.data.pipeline.plan import CLEAN, RESOLVE, WRITE, Plan, write_plan
from modelwright.data.pipeline.shard import WRITE_PHASE, shard_folder
from modelwright.data.pipeline.sides import fill_the_empty_side
from modelwright.data.readers.faults import Faults
from modelwright.data.readers.source import Source
from modelwright.data.readers.units import units
from modelwright.data.split import SIDES, Side, position, side_of

PIECE_CHARACTERS = 60
FRACTION = 0.4

Split = dict[str, tuple[Side, str]]
"""Text -> its side, and the id of the document that it was cut from."""


def prepared(texts: Sequence[str], files: int, unit_bytes: int) -> Split:
    """How the phases of prepare split texts that lie in so many files, worked on unit by unit."""
    with tempfile.TemporaryDirectory() as place:
        source, work = Path(place, "source"), Path(place, "work")
        source.mkdir()
        work.mkdir()
        for number in range(files):
            lines = "".join(json.dumps({"text": text}) + "\n" for text in texts[number::files])
            (source / f"{number}.jsonl").write_text(lines)
        plan = Plan(
            sources=(Source(path=str(source)),),
            max_document_characters=PIECE_CHARACTERS,
            validation_fraction=FRACTION,
            unit_bytes=unit_bytes,
        )
        num_units = len(write_plan(work, plan, 1, units(plan.sources, plan.unit_bytes, Faults())).sources)
        with Performer(Execution(), work, 0, lambda _: None, trusted=True) as perform:
            perform(CLEAN, range(num_units))
            perform(RESOLVE, [num_units])
            perform(WRITE, range(num_units))
        shards = [shard_folder(work, WRITE_PHASE, number) for number in range(num_units)]
        found: list[tuple[str, tuple[Side, str]]] = [
            (document.text, (side, str(document.meta.get("whole", document.id))))
            for shard in shards
            for side in SIDES
            for document in read_documents(shard / f"{side}.parquet")
        ]
    assert len(found) == len(dict(found)), "a text stands on both sides, or twice on one"
    return dict(found)


@given(
    st.permutations(range(24)),
    st.lists(st.integers(0, 40), min_size=24, max_size=24),
    st.integers(1, 4),
    st.sampled_from([1024, 1 << 20]),
)
@settings(max_examples=6, deadline=None)
def test_order_files_and_units_change_no_side(
    order: list[int], lengths: list[int], files: int, unit_bytes: int
) -> None:
    texts = [
        f"Document {number}." + "".join(f" {number}-{n}" for n in range(length))
        for number, length in enumerate(lengths)
    ]
    split = prepared(texts, 1, 1 << 20)
    assert prepared([texts[number] for number in order], files, unit_bytes) == split
    assert {whole for _, whole in split.values()} == {sha256_text(text) for text in texts}
    assert all(side == side_of(whole, FRACTION) for side, whole in split.values())


@given(st.text(max_size=20), st.floats(0, 0.5), st.floats(0, 0.5))
@settings(max_examples=40, deadline=None)
def test_the_share_is_near_the_one_asked_for_and_a_larger_one_takes_more(
    name: str, fraction: float, other: float
) -> None:
    keys = [sha256_text(f"{name} {number}") for number in range(500)]
    assert all(0 <= position(key, "split") < 1 for key in keys)
    held, more = (
        {key for key in keys if side_of(key, share) == "validation"} for share in sorted((fraction, other))
    )
    assert held <= more
    for found, share in zip((held, more), sorted((fraction, other)), strict=True):
        spread = sqrt(len(keys) * share * (1 - share))
        assert abs(len(found) - share * len(keys)) <= 6 * spread + 1


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=10), st.sampled_from([0.0, 0.02, 0.5]))
@settings(max_examples=40, deadline=None)
def test_a_side_that_would_be_empty_is_filled_and_nothing_is_lost(
    drawn: list[tuple[int, bool]], fraction: float
) -> None:
    """Pieces of one document part only then."""
    held = [Document(text=str(n), id=sha256_text(str(n)), source="a") for n in {n for n, _ in drawn}]
    pieces = {n for n, is_piece in drawn if is_piece}
    held = [replace(d, meta={"whole": sha256_text("book")}) if int(d.text) in pieces else d for d in held]
    before: dict[Side, list[Document]] = {side: [] for side in SIDES}
    for document in held:
        before[side_of(str(document.meta.get("whole", document.id)), fraction)].append(document)
    with tempfile.TemporaryDirectory() as place:
        folders = {side: Path(place, side) for side in SIDES}
        for side in SIDES:
            folders[side].mkdir()
            with DocumentsFile(folders[side] / shard_name(0)) as file:
                for document in before[side]:
                    file.add(document)
        fill_the_empty_side(folders["train"], folders["validation"], fraction)
        after = {side: list(read_corpus(folders[side])) for side in SIDES}
    assert sorted(d.id for side in SIDES for d in after[side]) == sorted(d.id for d in held)
    assert all([d for d in held if d in after[side]] == after[side] for side in SIDES)
    if all(before.values()) or not held:
        assert after == before
    elif fraction and len(held) > 1:
        assert all(after.values())
    else:
        assert after["train"] == held
