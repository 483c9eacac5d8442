"""From what a user points at (a run, a stage, a folder) to the Hugging Face folder to load."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from modelwright.base.artifact import FULL_PRECISION_MODELS, MANIFEST
from modelwright.base.errors import DamagedFile, UserError
from modelwright.base.files import canonical_json, name_beside, read_json, sha256_file, sha256_text
from modelwright.formats.stored import INDEX, WEIGHTS, pickles

# The folder inside an artifact that holds its model, by role; what comes first is taken first.
_MODELS = (*reversed(FULL_PRECISION_MODELS), "quantized")
_MODEL_FOLDERS = {"bundle": "hf"} | dict.fromkeys(_MODELS, "model")
_IMPORT = "modelwright import finetune-laptop --set import.model="


def is_model(folder: Path) -> bool:
    """Whether a folder is a Hugging Face model with weights we read."""
    weights = (folder / WEIGHTS, folder / INDEX)
    return (folder / "config.json").is_file() and any(file.is_file() for file in weights)


def resolve_model(path: Path | str) -> Path:
    """The Hugging Face folder behind a run directory, a stage folder, or such a folder itself.

    A run gives its most finished model: the exported bundle, then averaged, aligned, sft, base, and
    the quantized one last, since it is a copy of another.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise UserError(
            f"{path} does not exist.{name_beside(path)} Expected a run directory, a stage's folder or a"
            f" Hugging Face model; what is on the hub is fetched first: {_IMPORT}{path}"
        )
    if is_model(path):
        return path
    found = dict(_models_in(path))
    for role in _MODEL_FOLDERS:
        if role in found:
            return found[role]
    if path.suffix == ".gguf":
        raise UserError(f"{path} is a GGUF file, which has to become a model folder first: {_IMPORT}{path}")
    here = ", ".join(sorted(child.name for child in path.iterdir())) if path.is_dir() else "a file"
    raise UserError(
        f"{path} holds no model. Found: {here or 'nothing'}. Expected config.json with model.safetensors, or "
        f"a run with a finished stage that makes a model ({', '.join(_MODEL_FOLDERS)}){pickles(path)}."
    )


def files_mark(folder: Path) -> str:
    """Changes when a folder's files do: names, sizes and times stand for what they hold."""
    files = [(file.name, file.stat()) for file in sorted(folder.iterdir()) if file.is_file()]
    return sha256_text(canonical_json([[name, at.st_size, at.st_mtime_ns] for name, at in files]))


def _models_in(path: Path) -> list[tuple[str, Path]]:
    """(role, model folder) of a stage folder, or of all finished stages of a run."""
    if not path.is_dir():
        return []
    folders = [path, *sorted(child for child in path.iterdir() if child.is_dir())]
    models: list[tuple[str, Path]] = []
    for folder in folders:
        if not (folder / MANIFEST).is_file():
            continue
        role, _ = _stated(folder)
        model = folder / _MODEL_FOLDERS.get(role, "")
        if role in _MODEL_FOLDERS and is_model(model):
            models.append((role, model))
    return models


@dataclass(frozen=True, slots=True)
class Identity:
    """Which model answers: what a user is shown, so that nobody takes one for another."""

    path: Path
    role: str
    """Its role in the run it comes from, or "model" for a folder without a manifest."""
    id: str
    """The artifact's id, or "" where there is none."""

    @property
    def short_id(self) -> str:
        """The first letters of the id."""
        return self.id[:12] or "no manifest"

    @property
    def chats(self) -> bool:
        """Whether it has been taught turns; unknown models are given the benefit of the doubt."""
        return self.role != "base"


def identify(model_folder: Path) -> Identity:
    """What the manifest beside a model folder says about it."""
    for folder in (model_folder, model_folder.parent):
        if (folder / MANIFEST).is_file():
            return Identity(model_folder, *_stated(folder))
    return Identity(model_folder, "model", "")


def _stated(folder: Path) -> tuple[str, str]:
    """Role and id by a stage folder's manifest. Nothing else in it is looked at: a run that an older or a
    newer version made has other settings, and a model all the same."""
    file = folder / MANIFEST
    content = read_json(file)
    role, id_ = (content.get(name) if isinstance(content, dict) else None for name in ("role", "id"))
    if not isinstance(role, str) or not isinstance(id_, str):
        raise DamagedFile(f"{file} states no role and id, as the manifest of a finished stage does")
    return role, id_


def fingerprint(model_folder: Path) -> str:
    """12 letters that tell these weights and settings from others: of the artifact's id, or where there is
    none of a hash of the folder's files."""
    kinds = (".safetensors", ".json", ".jinja")
    files = [file for file in sorted(model_folder.iterdir()) if file.suffix in kinds]
    found = identify(model_folder).id
    return (found or sha256_text(canonical_json([[file.name, sha256_file(file)] for file in files])))[:12]
