"""Who is meant by a name that is to be forgotten: a source, or one document with its pieces and copies.

Every Parquet file below the run directory is asked, whatever it is called: the corpus, what went, what an
interrupted prepare has left, and what was replaced. So a text cannot hide in a folder that nobody thought of.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from modelwright.base.errors import UserError, did_you_mean
from modelwright.data.pipeline.forgotten import ID_LETTERS
from modelwright.data.rewrite import FORMER, former_ids

SHORTEST_ID = 8
"""Letters of an id that may stand for all of it."""
_COLUMNS = ("id", "source", "whole", "former", "meta", "earlier")


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be forgotten: a source, or one document."""

    name: str
    """As it was given."""
    source: str | None
    documents: frozenset[str] = frozenset()
    """Ids of a document: its own, those of its pieces, and those from before steps changed it."""
    sources: frozenset[str] = frozenset()
    """Where it stands."""
    wholes: frozenset[str] = frozenset()
    """Documents that it is only a piece of."""
    originals: frozenset[str] = frozenset()
    """Documents that it nearly repeats; the first letters of their ids."""
    is_done: bool = False
    """Forgotten here before, and found nowhere."""

    @property
    def names(self) -> frozenset[str]:
        """What the recipe's list `data.forget` gets."""
        return self.documents if self.source is None else frozenset([self.source])

    def holds(self, source: str, document: str) -> bool:
        """Whether a document of the corpus is meant."""
        return source == self.source or document in self.documents

    def rows_of(self, table: pa.Table) -> tuple[list[bool], list[bool]]:
        """(it is meant, it repeats what is meant) for every row of a corpus' or dropped documents' table."""
        beginnings = {name[:ID_LETTERS] for name in self.documents}
        rows = table.select([name for name in table.column_names if name in _COLUMNS]).to_pylist()
        own = [row["source"] == self.source or not self.documents.isdisjoint(_ids(row)) for row in rows]
        copies = [
            not mine and str(row.get("earlier") or "")[:ID_LETTERS] in beginnings
            for row, mine in zip(rows, own, strict=True)
        ]
        return own, copies


@dataclass(slots=True)
class _Found:
    """Rows of one document."""

    ids: set[str] = field(default_factory=set[str])
    sources: set[str] = field(default_factory=set[str])
    wholes: set[str] = field(default_factory=set[str])
    originals: set[str] = field(default_factory=set[str])


def document_files(folder: Path) -> Iterator[Path]:
    """Every Parquet file of documents below a folder, sorted; those that are no Parquet at all (what a killed
    process has left) are passed over: they are removed with the folder they lie in."""
    for path in sorted(folder.rglob("*.parquet")):
        try:
            names = pq.read_schema(path).names
        except (pa.ArrowException, OSError):
            continue
        if {"id", "source"} <= set(names):
            yield path


def read_rows(path: Path) -> pa.Table:
    """What tells the documents of a file apart."""
    names = pq.read_schema(path).names
    return pq.read_table(path, columns=[name for name in _COLUMNS if name in names])


def find_target(name: str, folder: Path, sources: Iterable[str], forgotten: Iterable[str]) -> Target:
    """The source of this name, or the document with this id (or the only one whose id begins so).

    `sources` are those that the recipe and the manifests know; `forgotten` is the recipe's list of what was
    forgotten before. Raises UserError where the name means nothing, or more than one document.
    """
    known = {*sources}
    files = list(document_files(folder))
    if name in known or any(name in _sources(path) for path in files):
        return Target(name, name)
    if is_beginning(name):
        found = _matching(files, name)
        if len(found) > 1:
            listed = ", ".join(sorted(found)[:5])
            raise UserError(f"'{name}' begins {len(found)} ids: {listed}. Give more of it")
        for one in found.values():
            return Target(
                name,
                None,
                frozenset(one.ids),
                frozenset(one.sources),
                frozenset(one.wholes - one.ids),
                frozenset(one.originals),
            )
    done = {each for each in forgotten if each == name or (is_beginning(name) and each.startswith(name))}
    if done:
        source = name if name in done and not is_id(name) else None
        return Target(name, source, frozenset() if source else frozenset(done), is_done=True)
    raise UserError(
        f"there is no source and no document '{name}' in {folder}. A document is named by its id, or by the"
        f" first {SHORTEST_ID} letters of it or more.{did_you_mean(name, known)}"
    )


def is_beginning(name: str) -> bool:
    """Whether a name can be an id or the beginning of one."""
    return SHORTEST_ID <= len(name) <= 64 and all(letter in "0123456789abcdef" for letter in name)


def is_id(name: str) -> bool:
    """Whether a name is a whole id: the sha256 of a text."""
    return len(name) == 64 and is_beginning(name)


def _sources(path: Path) -> set[str]:
    return set(pq.read_table(path, columns=["source"])["source"].unique().to_pylist())


def _ids(row: Mapping[str, Any]) -> set[str]:
    """Every id that a row goes by: its own, that of its whole, those from before steps changed it."""
    meta = row.get("meta") or ""
    more = json.loads(meta) if '"whole"' in meta or FORMER in meta else {}
    known = (row["id"], row.get("whole"), more.get("whole"), *(row.get("former") or ()), *former_ids(more))
    return {str(each) for each in known if each}


def _matching(files: Iterable[Path], beginning: str) -> dict[str, _Found]:
    """By the id that is meant, what is known of the document: rows of it and of its pieces."""
    found: dict[str, _Found] = {}
    for path in files:
        table = read_rows(path)
        named = [name for name in ("id", "whole", "meta") if name in table.column_names]
        asked = pc.MatchSubstringOptions(beginning)
        columns = [table[name] for name in named]
        if "former" in table.column_names:
            columns.append(pc.call_function("binary_join", [table["former"], pa.scalar(" ")]))
        hits = [pc.call_function("match_substring", [column], asked) for column in columns]
        for row in table.filter(reduce(_either, hits)).to_pylist():
            _note(row, beginning, found)
    return found


def _either(a: Any, b: Any) -> Any:
    return pc.call_function("or_kleene", [a, b])


def _note(row: Mapping[str, Any], beginning: str, found: dict[str, _Found]) -> None:
    meta = json.loads(row.get("meta") or "{}")
    whole = str(row.get("whole") or meta.get("whole") or "")
    own = {str(each) for each in (row["id"], *(row.get("former") or ()), *former_ids(meta)) if each}
    if whole.startswith(beginning):
        one = found.setdefault(whole, _Found())
        one.ids.add(whole)
    elif any(each.startswith(beginning) for each in own):
        one = found.setdefault(str(row["id"]), _Found())
        one.wholes |= {whole} - {""}
    else:
        return
    one.ids |= own
    one.sources.add(row["source"])
    earlier = str(row.get("earlier") or "")
    if earlier and not any(each.startswith(earlier[:ID_LETTERS]) for each in own):
        one.originals.add(earlier)
