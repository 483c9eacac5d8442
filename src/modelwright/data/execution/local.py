"""Units of work in local processes, which may die: the unit is taken up again by a fresh one."""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelwright.base.errors import UserError
from modelwright.data.execution.beat import DEATHS_TO_BLAME, MAX_BLAMED, changes, num_blamed
from modelwright.data.execution.worker import notes_of

MAX_DEATHS = 6
"""A unit whose processes die this often without a document to blame is given up."""
_START = "from modelwright.data.execution.worker import main; main()"
_SECONDS_BETWEEN_LOOKS = 1.0
_LONGEST_LOOK = 10.0
"""More time between two looks was not watched: the run was stopped (Ctrl-Z), and its workers with it."""


@dataclass(slots=True)
class _Worker:
    process: subprocess.Popen[bytes]
    errors: Path
    unit: int | None = None
    trace: int = 0
    """What `_trace` gave last."""
    still_seconds: float = 0.0
    """For how long we have watched it stay the same."""
    buffer: bytes = b""

    @property
    def out(self) -> int:
        assert self.process.stdout is not None
        return self.process.stdout.fileno()


class LocalProcesses:
    """Worker processes for the units of one folder. Use as a context: they end with it."""

    def __init__(self, count: int, folder: Path, stalled_seconds: float, log: Callable[[str], None]) -> None:
        """A unit that does not get on by a document in `stalled_seconds` is killed and taken up again."""
        self._count, self._folder, self._stalled, self._log = count, folder, stalled_seconds, log
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()
        self._started = 0
        self._looked = time.monotonic()

    def __enter__(self) -> LocalProcesses:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in list(self._workers):
            self._end(worker)
        self._selector.close()

    def run(
        self, function: str, units: Iterable[int], advance: Callable[[int], None]
    ) -> dict[int, dict[str, Any]]:
        """Unit -> {"done"} or {"failed"}; after a first failure no further unit is begun."""
        waiting, deaths = deque(units), Counter[int]()
        answers: dict[int, dict[str, Any]] = {}
        while waiting or any(worker.unit is not None for worker in self._workers):
            while waiting and (worker := self._idle(len(waiting))):
                self._give(worker, function, waiting.popleft())
            for worker in self._ready():
                unit = worker.unit
                alive = self._hear(worker, answers, advance)
                if not alive and unit is None:
                    self._end(worker)
                elif not alive and unit is not None:
                    deaths[unit] += 1
                    self._bury(worker, function, unit, deaths[unit])
                    waiting.appendleft(unit)
                if unit is not None and "failed" in answers.get(unit, {}):
                    waiting.clear()
            self._kill_the_stalled(function)
        return answers

    def _idle(self, wanted: int) -> _Worker | None:
        """A worker without a unit; a new one while there may be more. What died without one is let go."""
        for worker in [each for each in self._workers if each.unit is None]:
            if worker.process.poll() is not None:
                self._end(worker)
        free = next((worker for worker in self._workers if worker.unit is None), None)
        if free is None and len(self._workers) < self._count and wanted:
            free = self._start()
        return free

    def _start(self) -> _Worker:
        errors = self._folder / "logs" / f"{socket.gethostname()}-{os.getpid()}-{self._started}.txt"
        errors.parent.mkdir(parents=True, exist_ok=True)
        self._started += 1
        with errors.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-c", _START],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                env=environment(),
            )
        worker = _Worker(process, errors)
        os.set_blocking(worker.out, False)
        self._workers.append(worker)
        self._selector.register(worker.out, selectors.EVENT_READ, worker)
        return worker

    def _give(self, worker: _Worker, function: str, unit: int) -> None:
        worker.unit, worker.trace, worker.still_seconds = unit, 0, 0.0
        message = {"function": function, "folder": str(self._folder), "unit": unit}
        assert worker.process.stdin is not None
        with suppress(BrokenPipeError):  # it has died: its standard output ends too, and is heard
            worker.process.stdin.write(json.dumps(message).encode() + b"\n")
            worker.process.stdin.flush()

    def _ready(self) -> list[_Worker]:
        return [key.data for key, _ in self._selector.select(timeout=_SECONDS_BETWEEN_LOOKS)]

    def _hear(
        self, worker: _Worker, answers: dict[int, dict[str, Any]], advance: Callable[[int], None]
    ) -> bool:
        """Take in what a worker says; False when it has died."""
        try:
            piece = os.read(worker.out, 1 << 16)
        except BlockingIOError:
            return True
        *lines, worker.buffer = (worker.buffer + piece).split(b"\n")
        for message in map(json.loads, lines):
            if "bytes" in message:
                advance(message["bytes"])
            elif worker.unit is not None:
                answers[worker.unit] = message
                worker.unit = None
        return bool(piece)

    def _bury(self, worker: _Worker, function: str, unit: int, deaths: int) -> None:
        """Say what is known of a death, and go on unless the unit has had too many."""
        self._end(worker)
        why = _cause(worker.process.returncode)
        said = worker.errors.read_text(errors="replace").strip()[-500:]
        blamed = num_blamed(notes_of(function, self._folder), unit)
        if deaths - DEATHS_TO_BLAME * blamed >= MAX_DEATHS or blamed >= MAX_BLAMED:
            raise UserError(
                f"{_phase(function)}: unit {unit} was given up after {deaths} worker processes died on it, "
                f"the last one {why}. Documents that are to blame: {blamed}. What was finished is kept. Its "
                f"last words: {said or 'none'}"
            )
        self._log(
            f"{_phase(function)}: a worker process died on unit {unit} ({why}): the unit is taken up again. "
            f"{said}"
        )

    def _kill_the_stalled(self, function: str) -> None:
        now = time.monotonic()
        watched, self._looked = min(now - self._looked, _LONGEST_LOOK), now
        for worker in self._workers:
            if worker.unit is None:
                continue
            trace = _trace(worker, function, self._folder)
            if trace != worker.trace:
                worker.trace, worker.still_seconds = trace, 0.0
            elif trace:
                worker.still_seconds += watched
            if worker.still_seconds > self._stalled:
                self._log(
                    f"{_phase(function)}: unit {worker.unit} has not got on for {self._stalled:,.0f} s: its "
                    "process is killed"
                )
                worker.process.kill()
                worker.still_seconds = 0.0

    def _end(self, worker: _Worker) -> None:
        self._selector.unregister(worker.out)
        self._workers.remove(worker)
        worker.process.kill()
        worker.process.wait()
        for pipe in (worker.process.stdin, worker.process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()


def _trace(worker: _Worker, function: str, folder: Path) -> int:
    """A figure that stays the same while a worker hangs; 0 where there is none. Work on documents must get on
    by documents. Of work over all of them at once nobody can say how long it takes, only whether the process
    does anything: it hangs when it neither computes nor reads nor writes."""
    assert worker.unit is not None
    return changes(notes_of(function, folder), worker.unit) or _activity(worker.process.pid)


def _activity(process: int) -> int:
    """Ticks of processor time and bytes read and written so far; 0 where the system does not tell."""
    place = Path("/proc", str(process))
    try:
        times = (place / "stat").read_text().rpartition(")")[2].split()[11:13]
        moved = (place / "io").read_text().split()[1::2]
    except OSError:
        return 0
    return sum(map(int, [*times, *moved]))


def _phase(function: str) -> str:
    return function.rpartition(":")[2]


def _cause(code: int | None) -> str:
    if code is None or code >= 0:
        return f"with exit code {code}"
    name = signal.Signals(-code).name
    return f"by {name}" + (", often a sign of too little memory" if name == "SIGKILL" else "")


def environment() -> dict[str, str]:
    """One thread in each: the processes share out the cores. Imports are found where ours were found."""
    single = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    paths = os.pathsep.join(path for path in sys.path if path)
    return {**os.environ, **single, "PYTHONPATH": paths, "TOKENIZERS_PARALLELISM": "false"}
