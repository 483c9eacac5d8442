"""Evaluation items, and the layouts in which evaluation sets are published.

Published sets name their fields in some dozen ways (`question`, `prompt`, `context`; `answer`, `target`,
`gold`, `canonical_solution`). A row is read by the first name of each list that it has.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from modelwright.base.errors import DamagedFile, UserError
from modelwright.base.schema import Json

QUESTIONS = (
    "question",
    "prompt",
    "problem",
    "query",
    "ctx",
    "context",
    "text",
    "instruction",
    "goal",
    "input",
)
ANSWERS = (
    *("answer", "target", "solution", "canonical_solution", "reference_solution", "code", "continuation"),
    *("gold", "answerKey", "best answer", "best_answer", "completion", "output", "response"),
)
CHOICES = ("choices", "options", "endings")
PASSAGES = ("passage", "article", "support", "story", "context")
IDS = ("id", "task_id", "key", "idx", "question_id")
SUFFIXES = (".jsonl", ".ndjson", ".csv", ".parquet")

_LABELS = re.compile(r"^\s*(?:question|query|answer|choices|q|a)\s*:[ \t]*", re.IGNORECASE | re.MULTILINE)
_CALCULATOR = re.compile(r"<<[^<>]{0,200}>>")  # GSM8K's marks, which no copy of it shows to readers


@dataclass(frozen=True, slots=True)
class EvalItem:
    """One question of an evaluation set, with the right answer as text ("" where there is none)."""

    suite: str
    id: str
    question: str
    answer: str = ""
    passage: str = ""
    """What the question is about, or the choices beside it: they support a finding, and make none."""


def read_items(path: Path, suite: str | None = None) -> Iterator[EvalItem]:
    """The items of a file (JSON Lines or CSV, also .gz or .zst; Parquet), or of all such files of a folder.

    `suite` is the folder's or the file's name when left out. Raises UserError for rows without a question
    and DamagedFile for what cannot be read: a hole in this list would let an evaluation set through.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if _suffix(file) in SUFFIXES)
        if not files:
            raise UserError(f"evaluation set {path}: no file with {', '.join(SUFFIXES)} in it.")
        for file in files:
            yield from read_items(file, suite or path.name)
        return
    if not path.is_file():
        raise UserError(f"evaluation set {path}: no such file or folder.")
    stem = path.name.split(".")[0]
    for number, row in enumerate(_rows(path), 1):
        item = item_of(row, suite or stem, f"{stem}:{number}")
        if item is None:
            raise UserError(
                f"{path}, row {number}: no question among the fields {', '.join(map(str, row))}. "
                f"Expected one of {', '.join(QUESTIONS)}."
            )
        yield item


def item_of(row: Mapping[str, Json], suite: str, otherwise: str) -> EvalItem | None:
    """A row as an item, `otherwise` being its id where it has none. None where it asks nothing."""
    fields = {str(name).strip().lower(): value for name, value in row.items() if value is not None}
    identity = _first(fields, IDS)
    name = f"{otherwise.rpartition(':')[0]}:{identity}" if isinstance(identity, str | int) else otherwise
    options = _options(_first(fields, CHOICES))
    right = _choose(_first(fields, [name.lower() for name in ANSWERS]), options)
    if "context_options" in fields:  # Winograd schemas: the context that goes with the continuation
        contexts = _options(fields["context_options"])
        chosen = _choose(fields.get("gold"), contexts)
        return EvalItem(suite, name, chosen, str(fields.get("continuation", ""))) if chosen else None
    asked = next((field for field in QUESTIONS if isinstance(fields.get(field), str)), None)
    if asked is None:
        return None
    passage = next((fields[f] for f in PASSAGES if f != asked and isinstance(fields.get(f), str)), "")
    support = "\n".join([passage, *options]).strip()
    question = _LABELS.sub("", fields[asked]).strip() or fields[asked]
    return EvalItem(suite, name, question, _CALCULATOR.sub("", right).strip(), support)


def _first(fields: Mapping[str, Json], names: Sequence[str]) -> Json:
    return next((fields[name] for name in names if name in fields), None)


def _options(value: Json) -> list[str]:
    """Choices as texts: a list, a mapping of letters, or ARC's `{"text": [...], "label": [...]}`."""
    if isinstance(value, Mapping):
        value = value.get("text", list(value.values()))
    return [str(option) for option in value] if isinstance(value, list | tuple) else []


def _choose(right: Json, options: Sequence[str]) -> str:
    """The right answer's text, which may be given as text, as an index, or as a letter."""
    if isinstance(right, list | tuple):
        right = right[0] if right else ""
    if isinstance(right, str) and options and re.fullmatch(r"[A-J]", right.strip()):
        right = ord(right.strip()) - ord("A")
    if isinstance(right, int) and not isinstance(right, bool) and options:
        return options[right] if 0 <= right < len(options) else ""
    return "" if right is None else str(right)


def _suffix(path: Path) -> str:
    """The suffix below a compression: ".jsonl" of test.jsonl.gz."""
    name = path.name.lower()
    return Path(name.removesuffix(".gz").removesuffix(".zst")).suffix


_BROKEN = (
    *(EOFError, OSError, zlib.error, zstandard.ZstdError),
    *(pa.ArrowException, UnicodeDecodeError, csv.Error),
)


def _open(path: Path) -> BinaryIO:
    """The file's bytes, decompressed by suffix. Evaluation sets are small and not hostile."""
    if path.suffix.lower() == ".zst":
        return io.BufferedReader(cast(io.RawIOBase, zstandard.open(path, "rb")))
    return cast(BinaryIO, gzip.open(path, "rb") if path.suffix.lower() == ".gz" else open(path, "rb"))


def _rows(path: Path) -> Iterator[Mapping[str, Json]]:
    suffix = _suffix(path)
    try:
        if suffix == ".parquet":
            with pq.ParquetFile(path) as table:
                for batch in table.iter_batches(1024):
                    yield from batch.to_pylist()
            return
        with _open(path) as file:
            if suffix == ".csv":
                with io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
                    yield from csv.DictReader(text)
            elif suffix in SUFFIXES:
                yield from _json_rows(path, file)
            else:
                raise UserError(f"evaluation set {path}: the suffix is not one of {', '.join(SUFFIXES)}.")
    except _BROKEN as error:
        raise DamagedFile(f"evaluation set {path} cannot be read: {error}. Restore it.") from error


def _json_rows(path: Path, lines: Iterable[bytes]) -> Iterator[Mapping[str, Json]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DamagedFile(f"evaluation set {path}, line {number}: not valid JSON ({error}).") from error
        if not isinstance(row, dict):
            raise DamagedFile(f"evaluation set {path}, line {number}: expected an object with fields.")
        yield row
