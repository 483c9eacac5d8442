"""`modelwright trace`: from an artifact through its ancestors to all that it learned from, and back again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console
from rich.tree import Tree

from modelwright.base.artifact import Artifact, Parent, so_many
from modelwright.base.errors import UserError
from modelwright.base.metrics import counted
from modelwright.base.provenance import UNKNOWN, Facts, Provenance, personal_data_flag
from modelwright.base.schema import Document
from modelwright.data.corpus import read_corpus
from modelwright.data.pipeline.plan import DROPPED_FOLDER
from modelwright.data.pipeline.samples import place_of
from modelwright.data.rewrite import former_ids
from modelwright.terminal.forgetting import show_seen as show_seen
from modelwright.terminal.manifests import provenance_summary
from modelwright.terminal.printable import printable
from modelwright.terminal.runs import finished, is_run, named
from modelwright.tokenizer.shards import TokenShards

SPLITS = ("train", "validation")
UNBROKEN = 10_000
"""Columns where nobody looks: a program that reads the tree wants whole lines."""
TRAINED = ("base", "sft", "aligned", "averaged", "quantized", "bundle")
"""Roles of artifacts that hold weights."""


@dataclass(frozen=True, slots=True)
class Ancestor:
    """An artifact in a family tree. `artifact` is None where its folder is gone or holds another one."""

    role: str
    id: str
    artifact: Artifact | None
    note: str
    parents: tuple[Ancestor, ...]

    def brought_in(self) -> dict[str, Provenance]:
        """The kind and the roll-up of what entered the family here, if anything did."""
        kind, texts = self.artifact.brought_in() if self.artifact else ("", Provenance())
        return {kind: texts} if texts.documents else {}

    def as_json(self) -> dict[str, Any]:
        """The tree as plain data."""
        made = self.artifact
        return {
            "role": self.role,
            "id": self.id,
            "stage": made.stage if made else None,
            "path": str(made.path) if made else None,
            "note": self.note,
            "brought_in": summaries(self.brought_in()),
            "parents": [parent.as_json() for parent in self.parents],
        }


def ancestry(artifact: Artifact, role: str | None = None) -> Ancestor:
    """The family tree above an artifact, with a note where it breaks off."""
    parents = tuple(_parent(artifact, parent) for parent in artifact.manifest.parents)
    return Ancestor(role or artifact.role, artifact.id, artifact, "", parents)


def _parent(child: Artifact, named: Parent) -> Ancestor:
    found, why_not = child.parent(named)
    return ancestry(found, named.role) if found else Ancestor(named.role, named.id, None, why_not, ())


def show_ancestry(path: Path, *, as_json: bool = False) -> None:
    """Print the family tree of an artifact (of a run, its last one), down to all that it learned from."""
    artifact = named(path)[-1]
    family = ancestry(artifact)
    if as_json:
        in_all, by_kind = artifact.manifest.provenance, artifact.learned_from()
        found = {"artifact": family.as_json(), "documents": summary(in_all)}
        found["learned_from"] = summaries(by_kind)
        print(json.dumps(found, indent=2))
        return
    tree = Tree(_label(family))
    _grow(tree, family, {family.id})
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = UNBROKEN
    console.print(tree)
    console.print(f"learned from {artifact.texts_behind()}", soft_wrap=True)


def _grow(tree: Tree, node: Ancestor, drawn: set[str]) -> None:
    """What entered the family at this node, then its parents; one that was drawn before is only named."""
    for kind, texts in node.brought_in().items():
        branch = tree.add(so_many(texts.documents, kind))
        for name, counts in provenance_summary(texts).items():
            known = ", ".join(f"{key} {count:,}" for key, count in counts.items())
            branch.add(printable(f"{name}: {known or 'none'}"))
    for parent in node.parents:
        branch = tree.add(_label(parent) + (" (see above)" if parent.id in drawn and parent.parents else ""))
        if parent.id not in drawn:
            drawn.add(parent.id)
            _grow(branch, parent, drawn)


def summary(texts: Provenance) -> dict[str, Any]:
    """How many, and from where."""
    return {"count": texts.documents, **provenance_summary(texts)}


def summaries(by_kind: Mapping[str, Provenance]) -> dict[str, Any]:
    """The same for each kind."""
    return {kind: summary(texts) for kind, texts in by_kind.items()}


def _label(node: Ancestor) -> str:
    where = f"{node.artifact.stage}  {node.artifact.path}" if node.artifact else node.note
    return printable(f"{node.role}  {node.id[:12]}  {where}")


def corpora(path: Path) -> list[Artifact]:
    """The corpora that an artifact, or anything in a run directory, comes from."""
    found = {made.id: made for start in named(path) for made in start.ancestry() if made.role == "corpus"}
    if not found:
        raise UserError(f"no corpus is left above {path}: documents cannot be traced")
    return list(found.values())


def descendants(path: Path, corpus: Artifact) -> list[Artifact]:
    """Models beside `path` that come from a corpus."""
    run = path if is_run(path) else path.parent
    models = [made for made in finished(run) if made.role in TRAINED]
    return [made for made in models if any(node.id == corpus.id for node in made.ancestry())]


def show_document(path: Path, document_id: str, *, as_json: bool = False) -> None:
    """Print a document, and which models descend from the corpus that holds it for training; or why prepare
    took it out. An id that a reason gives, which may be from before parts were cut out, will do."""
    for corpus in corpora(path):
        for split in SPLITS:
            for document in read_corpus(corpus.file(split)):
                known = (document.id, *former_ids(document.meta))
                if any(identity.startswith(document_id) for identity in known):
                    _show(document, split, corpus, descendants(path, corpus), as_json)
                    return
    for corpus in corpora(path):
        rows = _dropped(corpus, document_id)
        if rows:
            _show_dropped(rows, corpus, as_json)
            return
    raise UserError(
        f"no document above {path} has an id that begins with '{document_id}', nor has one that prepare took"
        " out. With keep_dropped: nothing, those are not listed."
    )


def _dropped(corpus: Artifact, document_id: str) -> list[dict[str, Any]]:
    """What is known of documents that went: one row for each place where such a text stood."""
    found: list[dict[str, Any]] = []
    for file in sorted((corpus.path / DROPPED_FOLDER).glob("*.parquet")):
        rows = pq.read_table(file).to_pylist()
        found += [row for row in rows if str(row["id"] or "").startswith(document_id)]
    return found


def _show_dropped(rows: Sequence[Mapping[str, Any]], corpus: Artifact, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"corpus": corpus.id, "dropped": rows}, indent=2, ensure_ascii=False))
        return
    console = Console(markup=False, highlight=False)
    console.print(printable(f"document: {rows[0]['id']}\nnot in corpus {corpus.id}: prepare took it out"))
    for row in rows:
        where = f"{row['source']}: {row['place']}" if row["place"] else row["source"]
        console.print(printable(f"{where}: {row['step']}: {row['says']}"), soft_wrap=True)


def show_token(path: Path, position: int, *, as_json: bool = False) -> None:
    """Print the document that a position in the training shards belongs to."""
    line = (made for start in named(path) for made in start.ancestry())
    tokens = next((made for made in line if made.role == "tokens"), None)
    if tokens is None:
        raise UserError(f"no token shards are left above {path}: 'tokenize' makes them")
    shards = TokenShards.open(tokens.file("train"))
    if not 0 <= position < len(shards):
        raise UserError(
            f"token {position:,} is outside the training shards, which hold 0 to {len(shards) - 1:,}"
        )
    show_document(path, shards.document_of(position)[0], as_json=as_json)


def show_step(path: Path, step: int, pieces: Sequence[tuple[int, str, str, int, int]], as_json: bool) -> None:
    """Print what a step of pre-training read: (row, document id, source, first token, tokens) of pieces."""
    if as_json:
        names = ("row", "document", "source", "first_token", "tokens")
        print(json.dumps([dict(zip(names, piece, strict=True)) for piece in pieces], indent=2))
        return
    documents = counted(len({piece[1] for piece in pieces}), "document")
    console = Console(markup=False, highlight=False)
    console.print(f"step {step} of {path} read {counted(len(pieces), 'piece')} of {documents}:")
    for row, document, source, first, tokens in pieces:
        where = f"tokens {first:,} to {first + tokens - 1:,}"
        console.print(printable(f"  row {row:3}  {document[:16]}  {where:26}  {source}"), soft_wrap=True)
    console.print(f"See one with: modelwright trace {path} --document {pieces[0][1][:16]}", soft_wrap=True)


def show_taught(path: Path, step: int, kind: str, rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Print what a step of a fine-tuning or an alignment learned from."""
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    console = Console(markup=False, highlight=False)
    console.print(f"step {step} of {path} learned from {len(rows):,} {kind}:")
    for row in rows:
        opening = " ".join(str(row["opening"]).split())
        words = f"  row {row['row']:3}  {row['id'][:16]}  {row['source']}  {opening}"
        console.print(printable(words, 200), soft_wrap=True)


def _show(document: Document, split: str, corpus: Artifact, models: list[Artifact], as_json: bool) -> None:
    stated = corpus.manifest.provenance.by_source.get(document.source, Facts())
    facts: dict[str, Any] = {
        "document": document.id,
        "source": document.source,
        "licence": document.licence,
        "jurisdiction": document.jurisdiction,
        "personal_data": personal_data_flag(document.personal_data, "masked" in document.meta),
        "legal_basis": ", ".join(stated.bases()) or UNKNOWN,
        "retention": ", ".join(stated.retentions()) or UNKNOWN,
        "place": place_of(document),
        "piece_of": document.meta.get("whole"),
        "corpus": corpus.id,
        "split": split,
        "models": [f"{made.role} {made.id[:12]}" for made in models] if split == "train" else [],
        "text": document.text,
    }
    if as_json:
        print(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    if split == "validation":
        facts["models"] = "none was trained on it: it is held out to measure them"
    else:
        facts["models"] = ", ".join(facts["models"]) or "no model yet"
    facts = {name: value for name, value in facts.items() if value not in (None, "")}
    facts["text"] = f"{len(document.text):,} characters\n\n{printable(document.text, 600)}"
    lines = [f"{name.replace('_', ' ')}: {value}" for name, value in facts.items()]
    Console(markup=False, highlight=False).print(printable("\n".join(lines)), soft_wrap=True)
