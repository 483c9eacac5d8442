"""Checkpoints: whole or absent, newest first, and no pickle.

A checkpoint is a folder `step-00000120` with safetensors files and a `state.json` that holds their
hashes. It appears by a rename, so a kill in the middle of writing leaves only a temporary folder. A
checkpoint damaged later (a truncated file) is passed over, with a message, for the one before it.

Several processes write one folder together, each its own pieces (`pieces.py`), in a file system that all of
them see; the first makes the folder and renames it. Written in the background, a checkpoint is a copy of the
state in memory, and training goes on meanwhile.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from modelwright.base.errors import DamagedFile
from modelwright.base.files import atomic_directory, read_json, remove_temporaries, sha256_file, write_json
from modelwright.base.world import World
from modelwright.training.layout import Layout, ShardedLayout
from modelwright.training.pieces import INDEX, load_pieces, save_pieces

STATE = "state.json"

Parts = Mapping[str, Mapping[str, Tensor]]
"""Name of a file -> tensors."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A finished checkpoint folder."""

    path: Path
    step: int

    def tensors(self, part: str, layout: Layout | None = None) -> dict[str, Tensor]:
        """One of its parts ("model", "optimizer", "ema"): what `layout` gives to this process, or all."""
        return load_pieces(self.path, part, layout or Layout())

    def state(self) -> dict[str, Any]:
        """The small values that were saved beside the tensors."""
        return read_json(self.path / STATE)["state"]

    def verify(self, place: int = 0, of: int = 1) -> None:
        """Raise DamagedFile unless every file is there and hashes as it did when written. Among `of`
        processes, the one at `place` looks at its share of the files."""
        try:
            hashes = sorted(read_json(self.path / STATE)["sha256"].items())
            for name, expected in hashes[place::of]:
                if sha256_file(self.path / name) != expected:
                    raise DamagedFile(f"{self.path / name} has changed since it was written")
        except (OSError, KeyError, SafetensorError) as error:
            raise DamagedFile(f"{self.path} is not a whole checkpoint: {error}") from error


class Checkpoints:
    """The checkpoints of one training stage. With several processes, each calls every method."""

    def __init__(
        self,
        folder: Path,
        keep: int,
        world: World | None = None,
        layout: Layout | None = None,
        writes: bool = True,
        background: bool = False,
    ) -> None:
        """`writes`: whether this process holds what is to be saved. `background`: `save` returns at once."""
        self.folder, self.keep = Path(folder), keep
        self._world, self._layout, self._writes = world or World(), layout or Layout(), writes
        self._writer = ThreadPoolExecutor(1, "checkpoint") if background else None
        self._pending: Future[None] | None = None
        self._line = self._world.channel("checkpoints") if background else self._world
        if self._world.is_first:
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_temporaries(self.folder)
            for left in self.folder.glob("step-*"):
                if not (left / STATE).exists():  # killed while an old one was being removed
                    shutil.rmtree(left)
        self._world.barrier()

    def all(self) -> list[Checkpoint]:
        """Oldest first."""
        found = [path for path in self.folder.glob("step-*") if (path / STATE).exists()]
        return sorted((Checkpoint(p, int(p.name.removeprefix("step-"))) for p in found), key=lambda c: c.step)

    def save(self, step: int, parts: Parts, state: Mapping[str, Any]) -> None:
        """Write a checkpoint, then remove the oldest beyond `keep`."""
        self.wait()
        if self._writer is None:
            self._write(step, _detached(parts, copy=False), dict(state))
        else:
            self._pending = self._writer.submit(self._write, step, _detached(parts, copy=True), dict(state))

    def remove_after(self, step: int) -> None:
        """Remove those of later steps: training has gone back."""
        for later in self.all() if self._world.is_first else ():
            if later.step > step:
                shutil.rmtree(later.path)
        self._world.barrier()

    def wait(self) -> None:
        """Until what `save` began in the background is on disk; raises what went wrong there."""
        if self._pending is not None:
            self._pending, pending = None, self._pending
            pending.result()

    def close(self) -> None:
        """Wait, and end the thread."""
        self.wait()
        if self._writer is not None:
            self._writer.shutdown()

    def _write(self, step: int, parts: Parts, state: Mapping[str, Any]) -> None:
        path = self.folder / f"step-{step:08d}"
        if not isinstance(self._layout, ShardedLayout):
            with atomic_directory(path) as temporary:
                for part, tensors in parts.items():
                    save_file(dict(tensors), temporary / f"{part}.safetensors")
                _write_state(temporary, state)
        elif self._world.is_first:
            with atomic_directory(path) as temporary:
                self._line.tell(temporary.name)
                self._write_pieces(temporary, parts, state)
            self._line.barrier()
        else:
            self._write_pieces(self.folder / self._line.tell(), parts, state)
            self._line.barrier()
        if self._world.is_first:
            for old in self.all()[: -self.keep]:
                shutil.rmtree(old.path)

    def _write_pieces(self, temporary: Path, parts: Parts, state: Mapping[str, Any]) -> None:
        """This process's files; and on the first, what describes the files of all."""
        layout = self._layout
        assert isinstance(layout, ShardedLayout)
        rank, kept = self._world.rank, parts.items() if self._writes else ()
        written = {part: save_pieces(temporary, part, rank, tensors, layout) for part, tensors in kept}
        mine = sorted(temporary.glob(f"*-{rank:05d}.safetensors"))
        hashes = {file.name: sha256_file(file) for file in mine}
        everyone = self._line.gather({"written": written, "sha256": hashes})
        if self._world.is_first:
            index: dict[str, dict[str, list[Any]]] = {part: {} for part in parts}
            for one in everyone:
                for part, entries in one["written"].items():
                    for key, entry in entries.items():
                        index[part].setdefault(key, []).append(entry)
            write_json(temporary / INDEX, index)
            hashes = {name: digest for one in everyone for name, digest in one["sha256"].items()}
            _write_state(temporary, state, hashes | {INDEX: sha256_file(temporary / INDEX)})

    def newest_whole(self, log: Callable[[str], None], before: int | None = None) -> Checkpoint | None:
        """The newest undamaged checkpoint, of a step below `before`; damaged ones are said and removed."""
        self.wait()
        names: list[str] = self._world.tell([found.path.name for found in reversed(self.all())])
        for name in names:
            checkpoint = Checkpoint(self.folder / name, int(name.removeprefix("step-")))
            if before is not None and checkpoint.step >= before:
                continue
            faults = [fault for fault in self._world.gather(self._fault(checkpoint)) if fault]
            if not faults:
                return checkpoint
            log(f"passing over a damaged checkpoint: {faults[0]}")
            if self._world.is_first:
                shutil.rmtree(checkpoint.path)
        return None

    def _fault(self, checkpoint: Checkpoint) -> str:
        try:
            checkpoint.verify(self._world.rank, self._world.size)
        except DamagedFile as error:
            return str(error)
        return ""


def _detached(parts: Parts, copy: bool) -> dict[str, dict[str, Tensor]]:
    """The tensors as they are written; copies where training goes on while they are."""
    return {
        part: {
            name: t.detach().to("cpu", copy=True) if copy else t.detach().contiguous()
            for name, t in tensors.items()
        }
        for part, tensors in parts.items()
    }


def _write_state(folder: Path, state: Mapping[str, Any], hashes: Mapping[str, str] | None = None) -> None:
    found = hashes or {file.name: sha256_file(file) for file in sorted(folder.iterdir())}
    write_json(folder / STATE, {"state": dict(state), "sha256": dict(sorted(found.items()))})
