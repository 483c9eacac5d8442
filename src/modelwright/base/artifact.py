"""Artifacts: what a stage leaves behind, with a manifest that says how it came to be.

A stage folder is done when its `manifest.json` is there: it is written last. The artifact's id is
the hash of what was made and of what it was made from; clock times and machines do not enter, so the
same recipe, run by the same code on the same inputs, gives the same id.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelwright.base.config import Config, validate
from modelwright.base.errors import DamagedFile, UserError
from modelwright.base.files import canonical_json, read_json, sha256_file, sha256_text
from modelwright.base.provenance import Provenance

MANIFEST = "manifest.json"
STARTED = "started.json"
"""Written when a stage starts: the settings and inputs that its unfinished work is good for, and when it
began."""
BEGAN = "began"
"""Of these, the UTC time in ISO 8601: for people alone."""
FULL_PRECISION_MODELS = ("base", "sft", "aligned", "averaged")
"""Roles of trained models in the order of a life: the last one made is "the model"."""
LEARNED_FROM = {
    "corpus": "documents",
    "base": "models from outside",
    "examples": "prompts and writers",
    "sft": "conversations",
    "aligned": "preference pairs",
}
"""Role -> the kind of texts that its stage reads from outside the run."""
TEXTS = "texts"
"""Their kind where it cannot be told, because an ancestor that knew is lost."""


class Parent(Config):
    """An artifact that this one was made from."""

    role: str
    id: str
    path: str
    """Where it lay, relative to this artifact's folder when both are in one run."""


class File(Config):
    """A file of the artifact."""

    path: str
    bytes: int
    sha256: str


class Cost(Config):
    """What making it took."""

    seconds: float = 0.0
    """Wall time over all sessions, resumed ones included."""
    tokens: int = 0
    """Tokens trained on or generated."""
    flops: float = 0.0
    """Model floating-point operations, 6ND plus attention for training."""
    peak_memory_bytes: int = 0
    energy_wh: float = 0.0
    """Metered where the machine lets us, else seconds times an assumed power; `environment` says which."""
    paid: float = 0.0
    """For tokens that others were asked for, in the currency that the settings name."""


class Manifest(Config):
    """Everything there is to say about an artifact."""

    id: str
    stage: str
    role: str
    fingerprint: str
    """Hash of config, seed and parents: equal means that the stage need not run again."""
    config: dict[str, Any]
    seed: int
    version: str
    revision: str
    """Git revision of the code, "-dirty" appended if it had changes, or "unknown"."""
    parents: tuple[Parent, ...]
    files: tuple[File, ...]
    metrics: dict[str, Any]
    environment: dict[str, Any]
    cost: Cost
    provenance: Provenance
    created: str
    """UTC time in ISO 8601."""


def so_many(count: int, kind: str) -> str:
    """So many of a kind of texts: "12,196 documents", "1 model from outside"."""
    one = re.sub(r"s\b", "", kind)
    return f"1 {one}" if count == 1 else f"{count:,} {kind}"


def fingerprint(stage: str, config: Config, seed: int, parents: Iterable[Parent], version: str) -> str:
    """Hash of all that decides what a stage will make."""
    inputs = sorted((parent.role, parent.id) for parent in parents)
    return sha256_text(canonical_json([stage, config.model_dump(mode="json"), seed, inputs, version]))


def content_id(stage: str, stage_fingerprint: str, files: Iterable[File]) -> str:
    """The artifact's id: what it was made from, and the bytes that were made."""
    made = sorted((file.path, file.sha256) for file in files)
    return sha256_text(canonical_json([stage, stage_fingerprint, made]))


def describe_files(folder: Path, names: Iterable[str]) -> tuple[File, ...]:
    """Hash the named files, and all files below named folders, in sorted order."""
    paths: set[Path] = set()
    for name in names:
        path = folder / name
        if not path.exists():
            raise UserError(f"{path} was to be recorded in the manifest and does not exist")
        paths.update(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else paths.add(path)
    return tuple(
        File(path=path.relative_to(folder).as_posix(), bytes=path.stat().st_size, sha256=sha256_file(path))
        for path in sorted(paths)
    )


@dataclass(frozen=True, slots=True)
class Artifact:
    """A finished stage folder."""

    path: Path
    manifest: Manifest

    @classmethod
    def load(cls, folder: Path) -> Artifact:
        """Read a stage folder's manifest."""
        folder = Path(folder)
        file = folder / MANIFEST
        if not folder.exists():
            raise UserError(f"{folder} does not exist; expected the folder of a finished stage")
        if not file.exists():
            raise UserError(
                f"{folder} has no {MANIFEST}: the stage is not finished, or it is no stage folder"
            )
        return cls(folder, validate(Manifest, read_json(file), str(file)))

    @property
    def id(self) -> str:
        """Content hash."""
        return self.manifest.id

    @property
    def stage(self) -> str:
        """The verb that made it."""
        return self.manifest.stage

    @property
    def role(self) -> str:
        """What it serves as for later stages."""
        return self.manifest.role

    @property
    def metrics(self) -> Mapping[str, Any]:
        """Final metrics of the stage."""
        return self.manifest.metrics

    def file(self, name: str) -> Path:
        """The path of one of its files or folders, which must be there."""
        path = self.path / name
        if not path.exists():
            raise DamagedFile(f"{path} is missing from {self.stage}'s artifact; run '{self.stage}' again")
        return path

    def parent(self, named: Parent) -> tuple[Artifact | None, str]:
        """One of its parents, or None and why it cannot be followed: its folder is gone, or holds what
        was made anew since, which is no ancestor."""
        try:
            found = Artifact.load((self.path / named.path).resolve())
        except UserError:
            return None, f"no longer at {named.path}"
        return (found, "") if found.id == named.id else (None, f"{named.path} has been made anew since")

    def inputs(self) -> dict[str, Artifact]:
        """Role -> parent, of those that can be followed."""
        found = {named.role: self.parent(named)[0] for named in self.manifest.parents}
        return {role: made for role, made in found.items() if made is not None}

    def ancestry(self) -> list[Artifact]:
        """Itself first, then all it was made from, each once and before what it was made from itself, as far
        as they can be followed: backwards, the order of a life."""
        found: dict[str, Artifact] = {}
        seen = {self.id}

        def follow(artifact: Artifact) -> None:
            for named in artifact.manifest.parents:
                made, _ = artifact.parent(named)
                if made is not None and made.id not in seen:
                    seen.add(made.id)
                    follow(made)
            found[artifact.id] = artifact

        follow(self)
        return list(reversed(found.values()))

    def brought_in(self) -> tuple[str, Provenance]:
        """What it learned from that is in none of its inputs: the kind, and the roll-up."""
        parents = [self.parent(named)[0] for named in self.manifest.parents]
        inherited = Provenance()
        for parent in parents:
            inherited |= parent.manifest.provenance if parent else Provenance()
        kind = TEXTS if None in parents else LEARNED_FROM.get(self.role, TEXTS)
        return kind, self.manifest.provenance - inherited

    def learned_from(self) -> dict[str, Provenance]:
        """Kind of texts -> roll-up: all that it and its ancestors learned from, in the order of a life."""
        found: dict[str, Provenance] = {}
        for made in reversed(self.ancestry()):
            kind, texts = made.brought_in()
            if texts.documents:
                found[kind] = found.get(kind, Provenance()) + texts
        return found

    def texts_behind(self) -> str:
        """`12,196 documents, 14,000 conversations`: how many of each kind it learned from."""
        counts = {kind: texts.documents for kind, texts in self.learned_from().items()}
        counts = counts or {TEXTS: self.manifest.provenance.documents}
        return ", ".join(so_many(count, kind) for kind, count in counts.items())

    def damage(self, *, hashes: bool = False) -> str | None:
        """What is wrong with its files (missing, other size, other hash), or None."""
        for file in self.manifest.files:
            path = self.path / file.path
            if not path.is_file():
                return f"{file.path} is missing"
            if path.stat().st_size != file.bytes:
                return f"{file.path} has {path.stat().st_size:,} bytes, the manifest says {file.bytes:,}"
            if hashes and sha256_file(path) != file.sha256:
                return f"{file.path} has changed: its sha256 is not the manifest's"
        return None
