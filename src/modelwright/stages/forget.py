"""forget: where a source or a document is in a corpus and in shards, and how it is taken out of them.

For a document the corpus is edited where it lies: only the shards that hold it are written anew, and what
remains is what preparing again would give, since what repeated a forgotten text stays out too. Without a
source it is prepared again, because texts that were left out as repetitions of the source's may stand in
others.
`life.forgetting` does one or the other, and makes again what was made from the corpus.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from modelwright.base.artifact import MANIFEST, Artifact, content_id, describe_files, fingerprint
from modelwright.base.config import Settings, validate
from modelwright.base.errors import UserError
from modelwright.base.files import atomic_path, read_json, write_json
from modelwright.base.provenance import UNKNOWN, Provenance
from modelwright.data.corpus import read_corpus, read_documents
from modelwright.data.pipeline.plan import DROPPED_FOLDER, REPORT_FILE, Plan
from modelwright.data.pipeline.sides import fill_the_empty_side, finish_filling
from modelwright.data.split import SIDES
from modelwright.stages.forget_target import Target, document_files, find_target, is_id, read_rows
from modelwright.tokenizer.shards import TokenShards

__all__ = [
    "Edit",
    "Place",
    "Target",
    "edit_corpus",
    "edit_recipe",
    "find_target",
    "in_documents",
    "in_tokens",
]

SECTIONS = {"prepare": "data", "synthesize": "synthesize", "finetune": "finetune", "align": "align"}
"""Stations that read sources, and the recipe's sections that list them."""


_ROWS = 1 << 12
"""At a time, where a file is written again."""


@dataclass(frozen=True, slots=True)
class Place:
    """A file that holds texts to be forgotten."""

    path: Path
    documents: int
    side: str
    """train, validation, dropped; of others the name of the folder that the file is in."""
    copies: int = 0
    """Dropped documents that nearly repeat them."""


def in_documents(target: Target, folder: Path) -> Iterator[Place]:
    """Every Parquet file below a folder that holds it, or what repeats it."""
    for path in document_files(folder):
        own, copies = target.rows_of(read_rows(path))
        if any(own) or any(copies):
            yield Place(path, sum(own), path.parent.name, sum(copies))


def in_tokens(target: Target, folder: Path) -> Iterator[Place]:
    """Every shard of token ids of a `tokenize` that holds it."""
    for side in SIDES:
        if not (folder / side / "index.json").is_file():
            continue
        shards = TokenShards.open(folder / side)
        for number, shard in enumerate(shards.index.shards):
            count = sum(target.holds(source, identity) for identity, source in shards.documents_of(number))
            if count:
                yield Place(folder / side / shard.tokens.name, count, side)


def edit_recipe(recipe: Settings, targets: Iterable[Target]) -> Settings:
    """The recipe without the sources, and with all names on the list of what prepare leaves out. Done twice,
    it changes nothing more. Raises UserError where a section would be left without a source."""
    edited = {key: dict(value) if isinstance(value, dict) else value for key, value in recipe.items()}
    targets = list(targets)
    names = {name for target in targets for name in target.names}
    data = edited.setdefault("data", {})
    data["forget"] = sorted({*data.get("forget", ()), *names})
    gone = {target.source for target in targets if target.source is not None}
    _keep_the_beginning(edited, gone)
    for section in [SECTIONS[verb] for verb in recipe["stages"] if verb in SECTIONS]:
        listed = edited.get(section, {}).get("sources") or ["atlas"]
        left = [each for each in listed if source_name(each) not in gone]
        if len(left) < len(listed):
            edited[section]["sources"] = left
            if not left:
                last = source_name(listed[-1])
                raise UserError(
                    f"'{last}' is the only source of {section}: without it nothing is left to learn from."
                    " Name another source in the recipe first, or remove the run."
                )
    return edited


def _keep_the_beginning(recipe: Settings, gone: set[str]) -> None:
    """Refuse to forget the model that a life begins with: nothing would be left of the life."""
    outside = recipe.get("import") or {}
    model = str(outside.get("model") or "")
    if "import" in recipe["stages"] and gone & {outside.get("name"), model, Path(model).name}:
        raise UserError(
            f"'{model}' is the model that this run begins with: without it nothing is left. Remove the run,"
            " or begin another one with another model."
        )


def stay_forgotten(recipe: Settings, names: Sequence[str]) -> Settings:
    """A recipe without what was forgotten before in the directory that it is to be lived in."""
    return edit_recipe(
        recipe, [Target(name, None if is_id(name) else name, frozenset([name])) for name in names]
    )


def source_name(source: Any) -> str:
    """The name of a source as a recipe states it."""
    return source if isinstance(source, str) else str(source.get("name") or source["path"])


@dataclass(frozen=True, slots=True)
class Edit:
    """How a corpus is to be edited: worked out before anything is changed, so that it can be done again from
    where it was interrupted and comes out the same."""

    manifest: dict[str, Any]
    """As it will be, but for `files` and what follows from them."""
    started: dict[str, Any]
    """The mark of the settings, under which the corpus is up to date."""
    keeps_id: bool
    """Whether only what went is changed: nothing that was made from the corpus read that."""
    fills: bool
    """Whether validation would be left empty, and gets a document again."""


def plan_edit(corpus: Artifact, targets: Sequence[Target], started: Mapping[str, Any]) -> Edit:
    """What taking documents out changes in the manifest. Raises UserError where nothing would be left."""
    gone: list[Any] = []
    removed: Counter[str] = Counter()
    for side in SIDES:
        for path in document_files(corpus.path / side):
            own = _own(targets, read_rows(path))
            if not any(own):
                continue
            leaving = [d for d, mine in zip(read_documents(path), own, strict=True) if mine]
            gone += leaving
            removed[f"{side}_documents"] += len(leaving)
            removed[f"{side}_bytes"] += sum(len(document.text.encode()) for document in leaving)
    metrics = {key: value for key, value in corpus.metrics.items() if key != "near_duplicates"}
    metrics |= {key: int(metrics.get(key, 0)) - count for key, count in removed.items()}
    if gone and metrics["train_documents"] <= 0:
        raise UserError(f"nothing would be left of {corpus.path} to train on. Remove the run instead.")
    before = int(metrics.get("dropped", {}).get("forgotten", 0))
    metrics["dropped"] = {**metrics.get("dropped", {}), "forgotten": before + len(gone)}
    known = corpus.manifest.provenance
    names = sorted({name for target in targets for name in target.names})
    plan = validate(Plan, corpus.manifest.config, str(corpus.path / MANIFEST))
    plan = plan.model_copy(update={"forget": tuple(sorted({*plan.forget, *names}))})
    mark = fingerprint("prepare", plan, corpus.manifest.seed, (), corpus.manifest.version)
    changes = {
        "fingerprint": mark,
        "config": plan.model_dump(mode="json"),
        "metrics": metrics,
        "provenance": known - Provenance.of(gone).stating(_statements(known)),
    }
    return Edit(
        corpus.manifest.model_copy(update=changes).model_dump(mode="json"),
        {**started, "fingerprint": mark},
        not gone,
        bool(gone) and metrics["validation_documents"] <= 0 < int(corpus.metrics["validation_documents"]),
    )


def _statements(known: Provenance) -> dict[str, tuple[str, str]]:
    """What each source of a corpus states as a whole."""
    return {
        name: (next(iter(facts.legal_basis), UNKNOWN), next(iter(facts.retention), UNKNOWN))
        for name, facts in known.by_source.items()
    }


def _own(targets: Sequence[Target], table: pa.Table) -> list[bool]:
    """Which rows of a table are meant by any of the targets."""
    found = [target.rows_of(table)[0] for target in targets]
    return [any(row) for row in zip(*found, strict=True)]


def edit_corpus(
    folder: Path, targets: Sequence[Target], edit: Edit, say: Callable[[str], None] = lambda _: None
) -> Artifact:
    """Take the texts out of the files of a corpus, and say so in its manifest. What an interrupted edit has
    done already stays done. A file of what was dropped that has become unreadable since then goes."""
    for side in SIDES:
        for path in document_files(folder / side):
            _keep_rows(path, [not mine for mine in _own(targets, read_rows(path))])
    for path in sorted((folder / DROPPED_FOLDER).rglob("*.parquet")):
        try:
            _clear(path, targets)
        except (pa.ArrowException, OSError) as error:
            if _can_be_read(path):
                raise  # it is the writing that failed
            path.unlink()
            say(f"{path} has become unreadable ({error}) and is removed: it may have held what is forgotten")
    (folder / REPORT_FILE).unlink(missing_ok=True)  # it shows samples of the texts, and counts them
    manifest = dict(edit.manifest)
    if edit.fills:
        fraction = manifest["config"]["validation_fraction"]
        finish_filling(folder / "train", folder / "validation")
        fill_the_empty_side(folder / "train", folder / "validation", fraction)
        manifest["metrics"] = {**manifest["metrics"], **_recounted(folder)}
    listed = dict.fromkeys(file["path"].split("/")[0] for file in manifest["files"])
    files = describe_files(folder, [name for name in listed if name != REPORT_FILE])
    manifest["files"] = [file.model_dump(mode="json") for file in files]
    if not edit.keeps_id:
        manifest["id"] = content_id("prepare", manifest["fingerprint"], files)
    write_json(folder / MANIFEST, manifest)
    return Artifact.load(folder)


def _recounted(folder: Path) -> dict[str, int]:
    """Documents and bytes of both sides; for a corpus so small that a side was empty."""
    counts: dict[str, int] = {}
    for side in SIDES:
        sizes = [len(document.text.encode()) for document in read_corpus(folder / side)]
        counts |= {f"{side}_documents": len(sizes), f"{side}_bytes": sum(sizes)}
    return counts


def _clear(path: Path, targets: Sequence[Target]) -> None:
    """Take out of what went the rows that are meant, and the texts of those that nearly repeat them."""

    def cleared(rows: pa.Table) -> pa.Table:
        marks = [target.rows_of(rows) for target in targets]
        keep = [not any(row) for row in zip(*(own for own, _ in marks), strict=True)]
        copies = [any(row) for row in zip(*(copies for _, copies in marks), strict=True)]
        texts = zip(rows["text"].to_pylist(), copies, strict=True)
        hidden = pa.array([None if copy else text for text, copy in texts], pa.string())
        return rows.set_column(rows.column_names.index("text"), "text", hidden).filter(pa.array(keep))

    marks = [target.rows_of(read_rows(path)) for target in targets]
    if any(any(own) or any(copies) for own, copies in marks):
        _write_again(path, cleared)


def _can_be_read(path: Path) -> bool:
    try:
        with pq.ParquetFile(path) as file:
            for _ in file.iter_batches(_ROWS):
                pass
    except (pa.ArrowException, OSError):
        return False
    return True


def _keep_rows(path: Path, keep: Sequence[bool]) -> None:
    """Write a Parquet file again without some rows."""
    marks = iter(keep)
    if not all(keep):
        _write_again(path, lambda rows: rows.filter(pa.array(islice(marks, rows.num_rows), pa.bool_())))


def _write_again(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """A file with its rows changed, a few at a time: a shard may be larger than memory."""
    with (
        pq.ParquetFile(path) as file,
        atomic_path(path) as temporary,
        pq.ParquetWriter(temporary, file.schema_arrow, compression="zstd") as writer,
    ):
        for batch in file.iter_batches(_ROWS):
            rows = change(pa.Table.from_batches([batch]))
            if rows.num_rows:
                writer.write_table(rows)


def read_started(file: Path) -> dict[str, Any]:
    """The mark under which a station's work began; nothing where it is not known."""
    return dict(read_json(file)) if file.is_file() else {}
