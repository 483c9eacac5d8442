"""Checkpoints: whole or absent, newest first, and no pickle.

A checkpoint is a folder `step-00000120` with safetensors files and a `state.json` that holds their
hashes. It appears by a rename, so a kill in the middle of writing leaves only a temporary folder. A
checkpoint damaged later (a truncated file) is passed over, with a message, for the one before it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from modelwright.base.errors import DamagedFile
from modelwright.base.files import atomic_directory, read_json, remove_temporaries, sha256_file, write_json

STATE = "state.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A finished checkpoint folder."""

    path: Path
    step: int

    def tensors(self, part: str) -> dict[str, Tensor]:
        """One of its parts ("model", "optimizer", "ema")."""
        return load_file(self.path / f"{part}.safetensors")

    def state(self) -> dict[str, Any]:
        """The small values that were saved beside the tensors."""
        return read_json(self.path / STATE)["state"]

    def verify(self) -> None:
        """Raise DamagedFile unless every file is there and hashes as it did when written."""
        try:
            hashes = read_json(self.path / STATE)["sha256"]
            for name, expected in hashes.items():
                if sha256_file(self.path / name) != expected:
                    raise DamagedFile(f"{self.path / name} has changed since it was written")
        except (OSError, KeyError, SafetensorError) as error:
            raise DamagedFile(f"{self.path} is not a whole checkpoint: {error}") from error


class Checkpoints:
    """The checkpoints of one training stage."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = Path(folder), keep
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_temporaries(self.folder)

    def all(self) -> list[Checkpoint]:
        """Oldest first."""
        found = [path for path in self.folder.glob("step-*") if (path / STATE).exists()]
        return sorted((Checkpoint(p, int(p.name.removeprefix("step-"))) for p in found), key=lambda c: c.step)

    def save(self, step: int, parts: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
        """Write a checkpoint, then remove the oldest beyond `keep`."""
        with atomic_directory(self.folder / f"step-{step:08d}") as temporary:
            for part, tensors in parts.items():
                flat = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
                save_file(flat, temporary / f"{part}.safetensors")
            hashes = {file.name: sha256_file(file) for file in sorted(temporary.iterdir())}
            write_json(temporary / STATE, {"state": dict(state), "sha256": hashes})
        for old in self.all()[: -self.keep]:
            shutil.rmtree(old.path)

    def newest_whole(self, log: Callable[[str], None], before: int | None = None) -> Checkpoint | None:
        """The newest undamaged checkpoint, of a step below `before`; damaged ones are said and removed."""
        for checkpoint in reversed(self.all()):
            if before is not None and checkpoint.step >= before:
                continue
            try:
                checkpoint.verify()
            except DamagedFile as error:
                log(f"passing over a damaged checkpoint: {error}")
                shutil.rmtree(checkpoint.path)
                continue
            return checkpoint
        return None
