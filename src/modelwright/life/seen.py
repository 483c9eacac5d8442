"""What in a run directory a forgotten text has touched, and what becomes of each of these folders.

Finished stations say in their manifests what they learned from. What an interruption or an earlier recipe has
left does not, or not any more, so it is taken to have seen what its inputs hold.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelwright.base.artifact import MANIFEST, STARTED, Artifact
from modelwright.base.errors import UserError
from modelwright.life.folder import REPLACED
from modelwright.life.inputs import MODEL_ROLES
from modelwright.life.loading import stage_module
from modelwright.recipes.stations import VERBS

SIDES = ("train", "validation")
STUDY = "study"
"""The folder of `tokenize study`, which holds shards and models of its own."""
REPORT = "report.html"
_ORDER = (VERBS[0], STUDY, *VERBS[1:])


@dataclass(frozen=True, slots=True)
class Left:
    """A folder of a station, as it is now."""

    verb: str
    path: Path
    made: Artifact | None
    """None where it is unfinished, or cannot be read."""

    @property
    def place(self) -> int:
        """In the order of a life; what is no station comes last."""
        return _ORDER.index(self.verb) if self.verb in _ORDER else len(_ORDER)


@dataclass(frozen=True, slots=True)
class Seen:
    """Where a source or a document is, and which models saw it."""

    target: Any
    folder: Path
    """The run directory."""
    shards: tuple[Any, ...]
    """Places in the corpus, what it dropped, and shards of tokens."""
    models: tuple[Artifact, ...]
    """Trained on it."""
    edited: tuple[Path, ...]
    """Corpora from which it is taken where they lie."""
    removed: tuple[Path, ...]
    """Folders and pages that hold it or were made from it, and those that may."""
    unfinished: tuple[str, ...]
    """Stations among them that were not finished."""
    again: tuple[str, ...]
    """Stations of the recipe that are made again."""
    elsewhere: tuple[Path, ...]
    """Stations in runs beside this one that were made from what is removed."""
    blocked: str = ""
    """Why it cannot be done here."""


def stations(folder: Path) -> list[Left]:
    """Every folder in a run directory that a station works in or has left, in the order of a life."""
    found: list[Left] = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.is_dir() and path.name != REPLACED and (path.name in _ORDER or _has_work(path)):
            found.append(Left(path.name, path, _load(path)))
    return sorted(found, key=lambda left: left.place)


def _has_work(folder: Path) -> bool:
    """Whether stations have left anything below: a killed ladder or study has cells, and no manifest yet."""
    marks = (MANIFEST, STARTED, "*.safetensors")
    return any(found for mark in marks for found in folder.rglob(mark))


def _load(folder: Path) -> Artifact | None:
    try:
        return Artifact.load(folder)
    except UserError:
        return None


def look(target: Any, folder: Path, recipe_stages: Sequence[str]) -> Seen:
    """Where a target is in a run directory, what saw it, and what is to be done."""
    stage, lefts = stage_module("forget"), stations(folder)
    places = list(stage.in_documents(target, folder))
    for left in lefts:
        places += stage.in_tokens(target, left.path) if left.made and left.made.role == "tokens" else []
    held = {left.verb for left in lefts for place in places if left.path in place.path.parents}
    touched = [left for left in lefts if left.made and _touches(target, left, held)]
    in_sides = {place.side for place in places if place.documents and place.side in SIDES}
    if target.source is not None or in_sides:
        touched += _descendants(target, lefts, {left.made.id for left in touched if left.made})
    corpora = [left.path for left in touched if left.made and left.made.role == "corpus"]
    edited = tuple(path for path in corpora if target.source is None)
    gone = [left for left in touched if left.path not in edited]
    first = min((1 if in_sides else len(_ORDER), *(left.place for left in gone)))
    open_ends = [left for left in lefts if not left.made and (left.verb == VERBS[0] or left.place >= first)]
    removed = [left.path for left in (*gone, *open_ends)] if not target.is_done else []
    if not target.is_done:
        removed += [path for path in leavings(folder)]
    finished = {left.verb for left in gone} & {*recipe_stages}
    last = max((_ORDER.index(verb) for verb in finished), default=-1)
    again = {left.verb for left in (*gone, *open_ends) if left.place <= last} & {*recipe_stages}
    trained = "train" in in_sides or target.source is not None
    return Seen(
        target,
        folder,
        tuple(place for place in places if folder / REPLACED not in place.path.parents),
        tuple(left.made for left in gone if left.made and trained and left.made.role in MODEL_ROLES),
        edited,
        tuple(removed),
        tuple(left.verb for left in open_ends if not target.is_done),
        tuple(verb for verb in VERBS if verb in again),
        tuple(_elsewhere(folder, {left.made.id for left in touched if left.made})),
        _blocked(target, folder, gone),
    )


def _touches(target: Any, left: Left, held: Collection[str]) -> bool:
    """Whether a finished station holds it, or learned from it."""
    assert left.made is not None
    return left.verb in held or (target.source is not None and target.source in _sources(left.made))


def _sources(made: Artifact) -> set[str]:
    """Sources that a station was asked to read, and those that it learned from."""
    listed = made.manifest.config.get("sources", ())
    return {*made.manifest.provenance.sources, *(str(each.get("name")) for each in listed)}


def _descendants(target: Any, lefts: Sequence[Left], made: set[str]) -> list[Left]:
    """Finished stations that were made from these artifacts, and those of which nobody knows any more from
    what they were made, unless their sources tell that it was from others."""
    found: list[Left] = []
    ids = {left.made.id for left in lefts if left.made}
    known = set(made)
    for left in lefts:
        if left.made is None or left.made.id in made or not left.made.manifest.parents:
            continue
        parents = {parent.id for parent in left.made.manifest.parents}
        lost = any(
            parent.id not in ids and left.made.parent(parent)[0] is None
            for parent in left.made.manifest.parents
        )
        suspect = lost and not target.sources.isdisjoint(left.made.manifest.provenance.sources)
        if not known.isdisjoint(parents) or suspect:
            found.append(left)
            known.add(left.made.id)
    return found


def leavings(folder: Path) -> Iterator[Path]:
    """What may hold texts whoever made it: earlier results, half-written files, the page over the run."""
    yield from (path for path in (folder / REPLACED, folder / REPORT) if path.exists())
    yield from sorted(folder.rglob(".tmp-*"))


def _elsewhere(folder: Path, ids: set[str]) -> Iterator[Path]:
    """Stations in the run directories beside this one that have one of these among their parents."""
    for path in sorted(folder.resolve().parent.glob(f"*/*/{MANIFEST}")):
        if path.parents[1] != folder.resolve():
            made = _load(path.parent)
            if made and any(parent.id in ids for parent in made.manifest.parents):
                yield path.parent


def outside_inputs(folder: Path, made: Artifact) -> Mapping[str, Artifact]:
    """Role -> input of a station that lies in another run directory."""
    found = {parent.role: made.parent(parent)[0] for parent in made.manifest.parents}
    here = folder.resolve()
    return {role: each for role, each in found.items() if each and here not in each.path.resolve().parents}


def _blocked(target: Any, folder: Path, gone: Sequence[Left]) -> str:
    """A message where it came into this run from another one."""
    for left in gone:
        for each in outside_inputs(folder, left.made).values() if left.made else ():
            if target.source is not None and target.source in each.manifest.provenance.sources:
                return (
                    f"{left.path} learned '{target.source}' from {each.path}, which lies outside this run."
                    f" Forget it there first: modelwright forget {each.path.parent} {target.name} --yes"
                )
    return ""
