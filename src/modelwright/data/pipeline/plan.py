"""What is to be done with the input: settings, units and seed, as the phases read them from the disk."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from modelwright import __version__
from modelwright.base import config
from modelwright.base.config import validate
from modelwright.base.files import (
    atomic_path,
    canonical_json,
    sha256_file,
    sha256_text,
    write_json,
)
from modelwright.base.policy import Policy
from modelwright.data import filters
from modelwright.data.decontaminate import settings as decontamination
from modelwright.data.decontaminate.items import EvalItem
from modelwright.data.dedup.settings import PASSES, Lines, MinHash, Passages, Removal
from modelwright.data.readers.faults import OnError
from modelwright.data.readers.source import Source
from modelwright.data.readers.units import Unit

PLAN_FILE = "plan.json"
DROPPED_FOLDER, REPORT_FILE = "dropped", "report.html"
"""In the finished corpus: what went, as Parquet, and the page."""
UNITS_FILE, PLACES_FILE = "units.jsonl", "units.places"
"""The units, one a line, and where each line begins (int64): a worker reads its own and no other."""
ITEMS_FILE = "items.jsonl"
CLEAN = "modelwright.data.pipeline.clean:clean"
RESOLVE = "modelwright.data.pipeline.resolve:resolve"
REPEATS = "modelwright.data.pipeline.repeats:repeats"
INDEX = "modelwright.data.pipeline.contamination:index"
WRITE = "modelwright.data.pipeline.write:write"
"""The phases by name: whoever works on units imports them, and needs nothing else."""


class Duplicates(config.Config):
    """What counts as a repetition. The first in the order of the corpus stays."""

    exact: bool = True
    """Drop documents with the same text."""
    near: MinHash | None = None
    """Drop documents that are nearly the same: MinHash, FineWeb's settings by default ({})."""
    min_similarity: float = Field(default=0.0, ge=0.0, le=1.0)
    """Near duplicates whose estimated likeness is less stay; 0 trusts the bands, as FineWeb does."""
    lines: Lines | None = None
    """Cut lines, paragraphs or runs of sentences that stand in the corpus before."""
    passages: Passages | None = None
    """Cut passages of 100 bytes and more that stand in the corpus before, byte for byte."""
    removal: Removal = Removal()
    """What becomes of documents with repeated lines or passages."""

    @property
    def within(self) -> bool:
        """Whether repetitions within documents are looked for."""
        return self.lines is not None or self.passages is not None

    @property
    def looks_at_documents(self) -> int:
        """How often resolving looks at each document: for damage, in each band, and for its text's hash."""
        return 1 + (self.near.bands if self.near else 0) + self.exact

    @property
    def looks_at_bytes(self) -> int:
        """How often each byte is looked at for what is within: to lay it down, for lines and for passages."""
        return 1 + (self.lines is not None) + PASSES * (self.passages is not None)


class Decontaminate(config.Config):
    """Which evaluation sets the corpus must not hold."""

    enabled: bool = True
    """Every suite that the project knows, and `sets`."""
    sets: tuple[str, ...] = ()
    """Files or folders of further evaluation sets."""
    index: decontamination.Config = decontamination.Config()
    """What counts as contaminated."""


class Plan(config.Config):
    """Which texts, and what is done to them: the recipe's section `data`."""

    sources: tuple[Source, ...] = (Source(path="atlas"),)
    """"atlas", files, folders, globs; or mappings with path, name, licence, jurisdiction..."""
    atlas_size_bytes: int = Field(default=5_000_000, gt=0)
    """How much text is generated where "atlas" is a source."""
    max_document_characters: int = Field(default=20_000, ge=0)
    """Longer documents are cut at paragraph ends, so that one book still gives a validation set. 0: never."""
    filters: tuple[dict[str, Any], ...] = ()
    """Filters in order, each with its name and settings: [{name: length, min_characters: 200}]."""
    duplicates: Duplicates = Duplicates()
    """Exact and near duplicates over all sources."""
    decontaminate: Decontaminate = Decontaminate()
    """Documents that hold items of evaluation sets go."""
    validation_fraction: float = Field(default=0.02, ge=0.0, le=0.5)
    """Share of documents that is kept for validation, chosen by the hash of the text."""
    on_error: OnError = "fail"
    """What cannot be read (a file, a row, a document): "fail" names it and stops, "skip" counts it."""
    keep_dropped: Literal["nothing", "reasons", "texts"] = "reasons"
    """What is kept of dropped documents: counts alone, also why each went, or its text too."""
    forget: tuple[str, ...] = ()
    """Sources by name and documents by id that must not be in the corpus: see `modelwright forget`."""
    policy: Policy = Policy()
    """What sources must be. In a recipe it is the section `policy`."""
    unit_bytes: int = Field(default=1 << 26, ge=1 << 10)
    """Input that is worked on in one go."""
    memory_bytes: int = Field(default=1 << 28, ge=1 << 20)
    """What sorting over all documents may take; the rest goes to the disk."""

    @model_validator(mode="after")
    def _filters_exist(self) -> Self:
        for settings in self.filters:
            filters.check(settings)
        return self

    @property
    def masks(self) -> bool:
        """Whether personal data is looked for and masked."""
        return any(settings.get("name") == "privacy" for settings in self.filters)


@dataclass(slots=True)
class Planned:
    """What the units come to, for who gives them out: the units themselves may be more than memory holds."""

    sources: list[int] = field(default_factory=list)
    """Of each unit, the index of its source."""
    num_bytes: int = 0
    """About how much is read, in bytes as stored."""
    file_bytes: int = 0
    """Of the files, all of which are hashed besides."""


def write_plan(folder: Path, plan: Plan, seed: int, units: Iterable[Unit]) -> Planned:
    """Lay down what the phases read. What an earlier plan has left becomes invalid by its mark."""
    planned, places = Planned(), array("q")
    with atomic_path(folder / UNITS_FILE) as path, path.open("wb") as file:
        for unit in units:
            places.append(file.tell())
            file.write(json.dumps(unit.as_json()).encode() + b"\n")
            planned.sources.append(unit.source)
            planned.num_bytes += unit.num_bytes
            planned.file_bytes += sum(part.file_bytes for part in unit.parts if part.begins)
    with atomic_path(folder / PLACES_FILE) as path:
        path.write_bytes(places.tobytes())
    found = {
        "plan": plan.model_dump(mode="json"),
        "seed": seed,
        "outside": outside(plan),
        "units": sha256_file(folder / UNITS_FILE),
    }
    write_json(folder / PLAN_FILE, found)
    return planned


def write_items(folder: Path, items: Iterable[EvalItem]) -> None:
    """Lay down what the corpus is held against."""
    with (folder / ITEMS_FILE).open("w", encoding="utf-8") as file:
        for item in items:
            file.write(json.dumps(astuple(item)) + "\n")


def _read(folder: Path) -> tuple[Plan, int, str]:
    return _parsed((folder / PLAN_FILE).read_text(encoding="utf-8"))


@lru_cache(maxsize=1)
def _parsed(content: str) -> tuple[Plan, int, str]:
    """By what the file holds: a process may outlive the plan that it has read here."""
    found = json.loads(content)
    return validate(Plan, found["plan"], PLAN_FILE), found["seed"], found["outside"]


def read_plan(folder: Path) -> tuple[Plan, int]:
    """The plan and the seed."""
    plan, seed, _ = _read(folder)
    return plan, seed


def read_unit(folder: Path, number: int) -> Unit:
    """One unit of input."""
    size = array("q").itemsize
    with (folder / PLACES_FILE).open("rb") as places:
        places.seek(number * size)
        (place,) = array("q", places.read(size))
    with (folder / UNITS_FILE).open("rb") as file:
        file.seek(place)
        return Unit.from_json(json.loads(file.readline()))


def clean_mark(folder: Path, unit: Unit) -> str:
    """Changes with anything that what the clean phase makes of a unit depends on."""
    plan, seed, beside = _read(folder)
    after = {"duplicates", "decontaminate", "validation_fraction", "memory_bytes", "sources"}
    settings = plan.model_dump(mode="json", exclude=after)
    near = plan.duplicates.near.model_dump() if plan.duplicates.near else None
    keeps = plan.duplicates.min_similarity > 0
    return sha256_text(canonical_json([settings, near, keeps, seed, unit.id, beside, __version__]))


def outside(plan: Plan) -> str:
    """A hash of the files that filters and evaluation sets read: quality models, lists of problems."""
    named = [settings["model"] for settings in plan.filters if isinstance(settings.get("model"), str)]
    files = [file for name in (*named, *plan.decontaminate.sets) for file in _files(Path(name))]
    return sha256_text(canonical_json([[file.as_posix(), sha256_file(file)] for file in files]))


def _files(path: Path) -> list[Path]:
    """What is missing is found missing by who reads it."""
    found = path.rglob("*") if path.is_dir() else [path]
    return sorted(file for file in found if file.is_file())


def named_filters(plan: Plan) -> Iterator[tuple[str, Any]]:
    """(name, Step) of the recipe's filters; raises ConfigError for what is wrong with them."""
    for settings in plan.filters:
        yield filters.build(settings)
