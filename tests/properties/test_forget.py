"""For any documents and any of them: exactly those leave, the others stay as they are and where they are."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.base.artifact import Artifact
from modelwright.base.files import sha256_text
from modelwright.base.provenance import Provenance
from modelwright.base.run import Run
from modelwright.base.schema import Document, Reason
from modelwright.data.corpus import DocumentsFile, read_corpus, read_documents, shard_name
from modelwright.data.pipeline.dropped import write_dropped
from modelwright.data.pipeline.plan import DROPPED_FOLDER, Plan
from modelwright.data.pipeline.write import forgetting
from modelwright.data.rewrite import former_ids, rewritten
from modelwright.data.split import SIDES
from modelwright.stages.forget import edit_corpus, find_target, plan_edit

PIECE, CHANGED = 1, 2
KINDS = st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0, PIECE, CHANGED])), min_size=1, max_size=12)


def documents(kinds: list[tuple[int, int]]) -> list[Document]:
    """One a (whole, kind): as it was read, a piece of one of four wholes, or changed by a step."""
    made: list[Document] = []
    for row, (whole, kind) in enumerate(kinds):
        text = f"text {row} é\n" * (row % 3 + 1)
        document = Document(text=text, id=sha256_text(text), source=f"source {whole % 2}", licence="CC0-1.0")
        if kind == PIECE:
            document = replace(document, meta={"whole": sha256_text(f"whole {whole}"), "piece": row + 1})
        made.append(rewritten(document, f"changed {row}") if kind == CHANGED else document)
    return made


def names_of(document: Document) -> list[str]:
    """Every id by which somebody may ask for it."""
    known = (document.id, document.meta.get("whole"), *former_ids(document.meta))
    return [str(name) for name in known if name]


@given(KINDS, st.data())
@settings(max_examples=100)
def test_the_step_leaves_out_what_is_named_and_nothing_else(
    kinds: list[tuple[int, int]], data: st.DataObject
) -> None:
    held = documents(kinds)
    known = sorted({name for each in held for name in (*names_of(each), each.source)})
    names = tuple(data.draw(st.lists(st.sampled_from([*known, sha256_text("nothing")]), max_size=3)))
    went: list[tuple[Document, Reason]] = []
    step = forgetting(names)
    left = list(step(iter(held), lambda document, reason: went.append((document, reason))))
    others = [each for each in held if each.source not in names and not {*names_of(each)} & {*names}]
    assert left == others
    assert {each.id for each, _ in went} == {each.id for each in held if each not in others}
    assert all(each.text == "" and reason.value in names for each, reason in went)
    went.clear()
    assert list(step(iter(left), lambda document, reason: went.append((document, reason)))) == left
    assert not went


def lay_down(folder: Path, held: list[Document]) -> Artifact:
    """A finished corpus of two units: every third document is for validation, and every fifth was dropped."""
    config = Plan(decontaminate={"enabled": False}, keep_dropped="texts")  # type: ignore[arg-type]
    run = Run(folder, "prepare", "corpus", config, seed=1)
    kept: list[Document] = []
    counts = dict.fromkeys([f"{side}_{what}" for side in SIDES for what in ("documents", "bytes")], 0)
    for name in (*SIDES, DROPPED_FOLDER):
        (folder / name).mkdir()
    for unit in range(2):
        files = {side: folder / side / shard_name(unit) for side in SIDES}
        with (
            write_dropped(folder / DROPPED_FOLDER / shard_name(unit), "texts") as dropped,
            DocumentsFile(files["train"]) as train,
            DocumentsFile(files["validation"]) as validation,
        ):
            for row in range(unit, len(held), 2):
                if row % 5 == 4:
                    dropped("length", held[row], Reason("too short", 1))
                    continue
                side = "validation" if row % 3 == 2 else "train"
                (validation if side == "validation" else train).add(held[row])
                counts[f"{side}_documents"] += 1
                counts[f"{side}_bytes"] += len(held[row].text.encode())
                kept.append(held[row])
    run.brings_in(Provenance.of(kept))
    return run.finish([*SIDES, DROPPED_FOLDER], counts)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def sides(folder: Path) -> Iterator[list[Document]]:
    for side in SIDES:
        yield list(read_corpus(folder / side))


def is_in(path: Path, meant: set[str]) -> bool:
    """Whether a file holds a document that is meant."""
    return any({*names_of(each)} & meant for each in read_documents(path))


def dropped_texts(folder: Path) -> set[str]:
    """What is kept of the texts that went."""
    files = sorted((folder / DROPPED_FOLDER).glob("*.parquet"))
    return {text for path in files for text in pq.read_table(path)["text"].to_pylist()}


@given(KINDS, st.data())
@settings(max_examples=10, deadline=None)
def test_a_corpus_loses_exactly_what_is_named_and_a_second_time_nothing(
    kinds: list[tuple[int, int]], data: st.DataObject
) -> None:
    held = documents([(0, 0), (0, 0), (0, 0), *kinds])  # the first three are never named: no side goes empty
    known = sorted({name for each in held[3:] for name in names_of(each)})
    names = data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=4, unique=True))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        corpus = lay_down(folder, held)
        before, were = contents(folder), list(sides(folder))
        targets = [find_target(name, folder, (), ()) for name in names]
        meant = {identity for target in targets for identity in target.documents}
        assert {*names} <= meant
        apart = [path for path in before if path.startswith(SIDES) and not is_in(folder / path, meant)]
        edit = plan_edit(corpus, targets, {})
        made = edit_corpus(folder, targets, edit)

        left = [[each for each in side if not {*names_of(each)} & meant] for side in were]
        assert list(sides(folder)) == left
        after = contents(folder)
        texts = {each.text for each in held if {*names_of(each)} & meant}
        assert texts.isdisjoint(dropped_texts(folder))
        for number, side in enumerate(SIDES):
            assert made.metrics[f"{side}_documents"] == len(left[number])
            assert made.metrics[f"{side}_bytes"] == sum(len(each.text.encode()) for each in left[number])
        assert before.keys() == after.keys()
        assert all(after[path] == before[path] for path in apart)
        assert made.damage(hashes=True) is None
        assert made.manifest.provenance == Provenance.of(each for side in left for each in side)

        edit_corpus(folder, targets, edit)
        assert contents(folder) == after
