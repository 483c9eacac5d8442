"""forget: take a source or a document out of a run's corpus, and out of all that was made from it.

For a document the corpus is edited where it lies: only the shards that hold it are written anew, and what
remains is what preparing again would give, since what repeated a forgotten text stays out too. For a source,
and where the corpus is not up to date, it is prepared again, because texts that were left out as repetitions
of a forgotten source's may stand in others. Everything that descends from it is then made again by the life,
which skips what does not.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from modelwright import __version__
from modelwright.base.artifact import MANIFEST, Artifact, content_id, describe_files, fingerprint
from modelwright.base.config import Config, Settings
from modelwright.base.errors import UserError, did_you_mean
from modelwright.base.files import atomic_path, write_json
from modelwright.base.provenance import Provenance
from modelwright.data.corpus import read_documents
from modelwright.data.pipeline.plan import DROPPED_FOLDER, REPORT_FILE
from modelwright.tokenizer.shards import TokenShards

SIDES = ("train", "validation")
SHORTEST_ID = 8
"""Letters of an id that may stand for all of it."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be forgotten: a source, or one document."""

    source: str | None
    documents: frozenset[str]
    """Ids of a document and of the pieces it was cut into."""

    def holds(self, source: str, document: str) -> bool:
        """Whether a document of the corpus is meant."""
        return source == self.source or document in self.documents


@dataclass(frozen=True, slots=True)
class Place:
    """A file that holds texts to be forgotten."""

    path: Path
    documents: int
    side: str


@dataclass(frozen=True, slots=True)
class Seen:
    """Where it is, and which models saw it."""

    corpus: Artifact | None
    shards: tuple[Place, ...]
    """Of the corpus, then of tokens."""
    models: tuple[Artifact, ...]
    """Trained on it: made from shards that hold it for training, or from such a model."""
    obsolete: tuple[Path, ...]
    """Folders of earlier results that may hold it."""


def find_target(name: str, artifacts: Sequence[Artifact]) -> Target:
    """The source of this name among all that the artifacts learned from, or the document with this id (or
    the only one whose id begins so). Raises UserError where there is none."""
    sources = {source for made in artifacts for source in made.manifest.provenance.sources}
    if name in sources:
        return Target(name, frozenset())
    if len(name) >= SHORTEST_ID and all(letter in "0123456789abcdef" for letter in name):
        ids = {identity for made in artifacts if made.role == "corpus" for identity in _matching(made, name)}
        if ids:
            return Target(None, frozenset(ids))
    raise UserError(
        f"there is no source and no document '{name}' in this run. A document is named by its id, or by the "
        f"first {SHORTEST_ID} letters of it or more.{did_you_mean(name, sources)}"
    )


def _matching(corpus: Artifact, prefix: str) -> set[str]:
    """Ids of the one document that is meant, and of its pieces."""
    found: dict[str, set[str]] = {}
    for side in SIDES:
        for path in sorted(corpus.file(side).glob("*.parquet")):
            for document in read_documents(path):
                whole = str(document.meta.get("whole") or document.id)
                if document.id.startswith(prefix):
                    found.setdefault(document.id, set()).add(document.id)
                elif whole.startswith(prefix):
                    found.setdefault(whole, set()).update((whole, document.id))
    if len(found) > 1:
        raise UserError(
            f"'{prefix}' begins {len(found)} ids: {', '.join(sorted(found)[:5])}. Give more of it"
        )
    return next(iter(found.values()), set())


def look(target: Target, artifacts: Sequence[Artifact], folder: Path) -> Seen:
    """Where the texts are in a run, and what saw them."""
    corpus = next((made for made in artifacts if made.role == "corpus"), None)
    places = list(_in_corpus(target, corpus)) if corpus else []
    places += [place for made in artifacts if made.role == "tokens" for place in _in_tokens(target, made)]
    trained_on = any(place.side == "train" for place in places)
    models = [
        made
        for made in artifacts
        if made.role not in ("corpus", "tokens", "report")
        and (
            (target.source is not None and target.source in made.manifest.provenance.sources)
            or (target.source is None and trained_on)
        )
    ]
    replaced = folder / "replaced"
    obsolete = tuple(sorted(replaced.iterdir())) if replaced.is_dir() else ()
    return Seen(corpus, tuple(places), tuple(models), obsolete)


def _in_corpus(target: Target, corpus: Artifact) -> Iterator[Place]:
    for side in SIDES:
        for path in sorted(corpus.file(side).glob("*.parquet")):
            table = pq.read_table(path, columns=["source", "id"]).to_pylist()
            count = sum(target.holds(row["source"], row["id"]) for row in table)
            if count:
                yield Place(path, count, side)


def _in_tokens(target: Target, tokens: Artifact) -> Iterator[Place]:
    for side in SIDES:
        if not (tokens.path / side / "index.json").is_file():
            continue
        shards = TokenShards.open(tokens.path / side)
        for number, shard in enumerate(shards.index.shards):
            count = sum(target.holds(source, identity) for identity, source in shards.documents_of(number))
            if count:
                yield Place(tokens.path / side / shard.tokens.name, count, side)


def edit_recipe(recipe: Settings, target: Target) -> Settings:
    """The recipe without the source, or with the document's ids on the list of what prepare leaves out."""
    edited = {key: dict(value) if isinstance(value, dict) else value for key, value in recipe.items()}
    data = edited.setdefault("data", {})
    if target.source is not None:
        data["forget"] = sorted({*data.get("forget", ()), target.source})
    else:
        data["forget"] = sorted({*data.get("forget", ()), *target.documents})
        return edited
    sections = {"prepare": "data", "finetune": "finetune", "align": "align"}
    for section in [sections[verb] for verb in recipe["stages"] if verb in sections]:
        listed = edited.get(section, {}).get("sources") or ["atlas"]
        left = [each for each in listed if _name(each) != target.source]
        if len(left) < len(listed):
            edited[section]["sources"] = left
            if not left:
                raise UserError(
                    f"'{target.source}' is the only source of {section}: without it nothing is left to learn "
                    "from. Name another source in the recipe first, or remove the run."
                )
    return edited


def _name(source: Any) -> str:
    return source if isinstance(source, str) else str(source.get("name") or source["path"])


def edit_corpus(corpus: Artifact, target: Target, config: Config, seed: int) -> Artifact:
    """Take the texts out of the corpus' files, and say so in its manifest."""
    removed: Counter[str] = Counter()
    gone: list[Any] = []
    for place in _in_corpus(target, corpus):
        documents = list(read_documents(place.path))
        leaving = [d for d in documents if target.holds(d.source, d.id)]
        gone += leaving
        _filter(place.path, [not target.holds(d.source, d.id) for d in documents])
        removed[f"{place.side}_documents"] += len(leaving)
        removed[f"{place.side}_bytes"] += sum(len(d.text.encode()) for d in leaving)
    for path in sorted((corpus.path / DROPPED_FOLDER).glob("*.parquet")):
        rows = pq.read_table(path, columns=["source", "id"]).to_pylist()
        _filter(path, [not target.holds(row["source"], row["id"] or "") for row in rows])
    metrics = {key: value for key, value in corpus.metrics.items() if key != "near_duplicates"}
    metrics |= {key: metrics[key] - count for key, count in removed.items()}
    metrics["dropped"] = {**metrics.get("dropped", {}), "forgotten": _forgotten(metrics, removed)}
    (corpus.path / REPORT_FILE).unlink(missing_ok=True)  # it shows samples of the texts, and counts them
    kept = dict.fromkeys(file.path.split("/")[0] for file in corpus.manifest.files)
    files = describe_files(corpus.path, [name for name in kept if name != REPORT_FILE])
    mark = fingerprint("prepare", config, seed, (), __version__)
    manifest = corpus.manifest.model_copy(
        update={
            "id": content_id("prepare", mark, files),
            "fingerprint": mark,
            "config": config.model_dump(mode="json"),
            "files": files,
            "metrics": metrics,
            "provenance": corpus.manifest.provenance - Provenance.of(gone),
        }
    )
    write_json(corpus.path / MANIFEST, manifest.model_dump(mode="json"))
    return Artifact(corpus.path, manifest)


def _forgotten(metrics: dict[str, Any], removed: Counter[str]) -> int:
    before = int(metrics.get("dropped", {}).get("forgotten", 0))
    return before + sum(count for key, count in removed.items() if key.endswith("_documents"))


def _filter(path: Path, keep: Sequence[bool]) -> None:
    """Write a Parquet file again without some rows; row groups stay bounded."""
    if all(keep):
        return
    table = pq.read_table(path)
    with atomic_path(path) as temporary:
        pq.write_table(table.filter(pa.array(keep)), temporary, compression="zstd", row_group_size=1 << 13)


def remove(paths: Iterable[Path]) -> None:
    """Delete earlier results that may hold what is forgotten."""
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)
