"""What a folder tells of a stage that has begun and not ended, which has no manifest yet."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modelwright.base.artifact import BEGAN, MANIFEST, STARTED
from modelwright.base.errors import UserError
from modelwright.base.files import read_json
from modelwright.base.metrics import read_metrics
from modelwright.recipes.recipe import RECIPE_FILE
from modelwright.recipes.stations import VERBS
from modelwright.terminal.printable import printable
from modelwright.terminal.runs import duration, is_unfinished

LOG, METRICS = "log.txt", "metrics.jsonl"
LONGEST = 300
"""Characters of the log's last line that are shown."""


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A stage's folder between its start and its end."""

    path: Path
    began: datetime
    changed: datetime
    """When something was last written of how it goes."""
    step: int
    """The last step that a training has recorded; 0: none."""
    checkpoint: int
    """The step that it would go on from; 0: none, so from its beginning."""
    log: str
    """The last line of its log."""

    @property
    def stage(self) -> str:
        return self.path.absolute().name

    @property
    def commands(self) -> tuple[str, ...]:
        """What resumes it: the whole life, and it alone; nothing where the folder is in no run."""
        run = self.path.absolute().parent
        if not (run / RECIPE_FILE).is_file():
            return ()
        alone = (self.stage,) if self.stage in VERBS else ()
        return tuple(shlex.join(["modelwright", verb, str(self.path.parent)]) for verb in ("run", *alone))

    def as_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "stage": self.stage,
            "path": str(self.path),
            "finished": False,
            "began": self.began.isoformat(timespec="seconds"),
            "changed": self.changed.isoformat(timespec="seconds"),
            "step": self.step or None,
            "checkpoint": self.checkpoint or None,
            "log": self.log,
            "resume": list(self.commands),
        }

    def describe(self) -> str:
        """For the eye."""
        reached = f"step {self.step:,}; " if self.step else ""
        start = f"the checkpoint of step {self.checkpoint:,}" if self.checkpoint else "its beginning"
        lines = {
            "began": _when(self.began),
            "last written": _when(self.changed),
            "reached": f"{reached}it would go on from {start}" if self.step or self.checkpoint else "",
            "log ends": printable(self.log, LONGEST),
            "resume": ", or this stage alone: ".join(self.commands) or "with the command that began it",
        }
        told = "".join(f"  {name}: {text}\n" for name, text in lines.items() if text)
        return f"{self.path}\n  {self.stage} has begun and not ended, so it has no {MANIFEST} yet\n{told}"


def unfinished_in(run: Path) -> list[Unfinished]:
    """Of the stages of a run directory, those that have begun and not ended, by their last sign of life."""
    found = [look_at(folder) for folder in sorted(run.iterdir()) if is_unfinished(folder)]
    return sorted(found, key=lambda each: each.changed)


def look_at(folder: Path) -> Unfinished:
    """What a folder for which `is_unfinished` tells."""
    steps = [line.get("step") for line in _lines(folder / METRICS)]
    kept = [path.parent.name.removeprefix("step-") for path in folder.glob("checkpoints/step-*/state.json")]
    written = [folder / name for name in (STARTED, LOG, METRICS) if (folder / name).is_file()]
    return Unfinished(
        folder,
        _began(folder / STARTED),
        datetime.fromtimestamp(max(path.stat().st_mtime for path in written), UTC),
        max((step for step in steps if isinstance(step, int)), default=0),
        max((int(step) for step in kept if step.isdecimal()), default=0),
        _last_line(folder / LOG),
    )


def _began(file: Path) -> datetime:
    """As it stands there; of runs from before it did, the time of the file."""
    try:
        return datetime.fromisoformat(read_json(file)[BEGAN]).astimezone(UTC)
    except (UserError, KeyError, TypeError, ValueError):
        return datetime.fromtimestamp(file.stat().st_mtime, UTC)


def _lines(file: Path) -> list[dict[str, Any]]:
    """Those of a metrics file; none where it is damaged."""
    try:
        return [line for line in read_metrics(file) if isinstance(line, dict)]
    except ValueError:
        return []


def _last_line(file: Path) -> str:
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    return next((line for line in reversed(lines) if line.strip()), "")


def _when(time: datetime) -> str:
    ago = max(0.0, (datetime.now(UTC) - time).total_seconds())
    return f"{time:%Y-%m-%d %H:%M:%S} UTC, {duration(ago)} ago"
