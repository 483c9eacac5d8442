"""A stage's workbench: its folder, its inputs, its log, and how it hands over what it made."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, TextIO

from modelwright import __version__
from modelwright.base.artifact import (
    MANIFEST,
    Artifact,
    Cost,
    Manifest,
    Parent,
    content_id,
    describe_files,
    fingerprint,
)
from modelwright.base.config import Config
from modelwright.base.errors import UserError
from modelwright.base.files import remove_temporaries, write_json
from modelwright.base.metrics import MetricsFile, read_metrics
from modelwright.base.progress import PlainView, Task, View
from modelwright.base.provenance import Provenance
from modelwright.base.resources import ASSUMED_WATTS_PER_CPU, Watch, peak_resident_bytes
from modelwright.base.seams import Sampler
from modelwright.base.trackers import Place, Trackers

RESOURCES = "resources.jsonl"
"""What a training used over time: processors, memory, GPU, energy."""


class Run:
    """One stage at work. `finish` writes the manifest and ends it."""

    _trackers: Trackers | None = None
    _watch: Watch | None = None
    keeps = True
    """Whether this process writes what is made: of several that train together, the first one does."""
    sampler_of: Callable[..., Sampler] | None = None
    """(model, tokenizer, slots, use_compiled) -> what lets a model in training answer; the last by name, and
    False where left out. From whoever lives the station; None: nobody answers here."""

    def __init__(
        self,
        folder: Path,
        stage: str,
        role: str,
        config: Config,
        seed: int,
        inputs: Mapping[str, Artifact] | None = None,
        view: View | None = None,
    ) -> None:
        self.dir = Path(folder)
        self.stage, self.role, self.config, self.seed = stage, role, config, seed
        self.inputs = dict(inputs or {})
        self._sources = Provenance()
        self._view = view or PlainView(quiet=True)
        self._start = time.monotonic()
        self._environment: dict[str, Any] = {}
        self._open()

    def _open(self) -> None:
        """Make the folder ready, and open the files that are written while the stage works."""
        self.dir.mkdir(parents=True, exist_ok=True)
        remove_temporaries(self.dir)
        self._earlier_seconds = _seconds_of_earlier_sessions(self.dir / "timing.jsonl")
        self.metrics = MetricsFile(self.dir / "metrics.jsonl")
        self._timing = MetricsFile(self.dir / "timing.jsonl")
        self._log: TextIO = open(self.dir / "log.txt", "a", encoding="utf-8", buffering=1)

    def input(self, role: str) -> Artifact:
        """The artifact that serves as `role`."""
        try:
            return self.inputs[role]
        except KeyError:
            have = ", ".join(self.inputs) or "nothing"
            raise UserError(f"{self.stage} needs '{role}' and was given {have}") from None

    def log(self, text: str) -> None:
        """A line for log.txt and for whoever watches."""
        self._log.write(f"{datetime.now(UTC):%H:%M:%S} {text}\n")
        self._view.log(f"  {text}")

    def failed(self, error: Exception) -> None:
        """Why the stage ended, for log.txt alone: whoever catches the error says it."""
        why = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        with suppress(OSError):  # the disk may be full
            self._log.write(f"{datetime.now(UTC):%H:%M:%S} failed: {why}\n")

    def metric(self, step: int, **values: float | int | str) -> None:
        """Deterministic values of a step (a repeated run gives the same bits)."""
        self.metrics.write(step, values)
        if self._trackers:
            self._trackers.log(step, values)

    def timing(self, step: int, **values: float) -> None:
        """Values of a step that depend on the clock; the seconds so far are added."""
        self._timing.write(step, {"seconds": self.seconds, **values})
        if self._trackers:
            self._trackers.log(step, {f"timing/{name}": value for name, value in values.items()})

    def track(self, names: Sequence[str], after_step: int) -> None:
        """Show metrics and timings in these trackers as well, from the step behind `after_step` on."""
        config = self.config.model_dump(mode="json")
        place = Place(self.dir, self.dir.absolute().parent.name, self.stage, config, after_step)
        self._trackers = Trackers(names, place, self.metrics.reported, self.log)

    @contextmanager
    def watch(self) -> Generator[None]:
        """Sample what this process uses into resources.jsonl, while the block works."""
        last: dict[str, Any] = {"energy_wh": 0.0, "watched_seconds": 0.0}
        for line in read_metrics(self.dir / RESOURCES):
            last |= line
        lines = MetricsFile(self.dir / RESOURCES)
        self._watch = Watch(
            lambda values: lines.write(0, {"seconds": self.seconds, **values}),
            last["energy_wh"],
            last["watched_seconds"],
        )
        try:
            with self._watch:
                yield
        finally:
            lines.close()
        self._environment["energy"] = self._watch.source

    def progress(self, label: str, total: int, done: int = 0) -> AbstractContextManager[Task]:
        """A progress bar."""
        return self._view.task(label, total, done)

    @property
    def seconds(self) -> float:
        """Wall time so far, earlier sessions of an interrupted stage included."""
        return self._earlier_seconds + time.monotonic() - self._start

    def brings_in(self, sources: Provenance) -> None:
        """Texts that this stage learns from and that are in no input: the manifest will count them."""
        self._sources += sources

    def computes_with(self, part: str, choice: str) -> None:
        """Which of several ways to compute was chosen on this machine: for the log and the manifest."""
        self.log(f"{part}: {choice}")
        self._environment[part] = choice

    def parents(self) -> tuple[Parent, ...]:
        """The inputs as the manifest records them."""
        return tuple(
            Parent(role=role, id=artifact.id, path=os.path.relpath(artifact.path, self.dir))
            for role, artifact in sorted(self.inputs.items())
        )

    def finish(
        self,
        files: Iterable[str],
        metrics: Mapping[str, Any] | None = None,
        tokens: int = 0,
        flops: float = 0.0,
        paid: float = 0.0,
    ) -> Artifact:
        """Hash what was made and write the manifest; from here on the stage is done."""
        self.timing(0)
        manifest = self._manifest(files, metrics, self._cost(tokens, flops, paid))
        write_json(self.dir / MANIFEST, manifest.model_dump(mode="json"))
        self.close()
        return Artifact(self.dir, manifest)

    def _manifest(self, files: Iterable[str], metrics: Mapping[str, Any] | None, cost: Cost) -> Manifest:
        provenance = self._inherited() + self._sources
        described = describe_files(self.dir, files)
        parents = self.parents()
        mark = fingerprint(self.stage, self.config, self.seed, parents, __version__)
        return Manifest(
            id=content_id(self.stage, mark, described),
            stage=self.stage,
            role=self.role,
            fingerprint=mark,
            config=self.config.model_dump(mode="json"),
            seed=self.seed,
            version=__version__,
            revision=code_revision(),
            parents=parents,
            files=described,
            metrics=dict(metrics or {}),
            environment=machine() | self._environment,
            cost=cost,
            provenance=provenance,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def close(self) -> None:
        """Close the files; `finish` does it, and so does whoever gives the stage up."""
        if self._trackers:
            self._trackers.close()
        self.metrics.close()
        self._timing.close()
        self._log.close()

    def _inherited(self) -> Provenance:
        """The documents behind the inputs. Inputs of one life share them, so each is counted once."""
        known = Provenance()
        for artifact in self.inputs.values():
            known |= artifact.manifest.provenance
        return known

    def _cost(self, tokens: int, flops: float, paid: float) -> Cost:
        watts = ASSUMED_WATTS_PER_CPU * (os.cpu_count() or 1)
        metered, watched = (self._watch.energy_wh, self._watch.seconds) if self._watch else (0.0, 0.0)
        return Cost(
            seconds=self.seconds,
            tokens=tokens,
            flops=flops,
            peak_memory_bytes=peak_resident_bytes(),
            energy_wh=metered + max(0.0, self.seconds - watched) * watts / 3600,
            paid=paid,
        )


def _seconds_of_earlier_sessions(path: Path) -> float:
    return max((line.get("seconds", 0.0) for line in read_metrics(path)), default=0.0)


def machine() -> dict[str, Any]:
    """What the stage ran on, without loading torch for it."""
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cpus": os.cpu_count(),
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        facts |= {"torch": str(torch.__version__), "threads": torch.get_num_threads()}
        if torch.cuda.is_available():
            facts["gpu"] = torch.cuda.get_device_name()
    return facts


@cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


@cache
def code_revision() -> str:
    """Git revision of the checkout this package runs from; "unknown" when installed from a wheel."""
    here = Path(__file__).parent
    try:
        command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip() or "unknown"
