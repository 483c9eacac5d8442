"""What every benchmark shares: interleaved repeats, ratios with their spread, and the result file."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from rich.console import Console
from rich.table import Table

from modelwright.base.run import code_revision, machine

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison. `ratio` above 1 means that ours is better; it is the median of the rounds, and low and
    high bound that median with 95 % confidence."""

    name: str
    unit: str
    ours: float
    peer: float
    peer_name: str
    ratio: float
    low: float
    high: float
    rounds: int
    bar: float | None


class Pace:
    """In a worker process: call it at the end of every step. After the warm-up it reports each step's time
    and waits for the next turn, so that of all workers only one computes at a time."""

    def __init__(self, warm_up: int) -> None:
        self._left = warm_up
        self._report = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # whatever a library prints goes to standard error
        self._start = 0.0

    def __call__(self, figures: Mapping[str, float] | None = None) -> None:
        """A step has ended; `figures`, where given, are reported in the place of its seconds."""
        elapsed = time.perf_counter() - self._start
        self._left -= 1
        if self._left > 0:
            return
        answer = "ready" if self._left == 0 else json.dumps(figures or elapsed)
        print(answer, file=self._report, flush=True)
        if not sys.stdin.readline():
            sys.exit()
        self._start = time.perf_counter()


T_co = TypeVar("T_co", covariant=True)


class Indexed(Protocol[T_co]):
    """A row of things, by their numbers."""

    def __getitem__(self, index: int) -> T_co: ...


class Paced(Generic[T_co]):
    """Batches that are asked for at the start of each step: the end of the one before."""

    def __init__(self, batches: Indexed[T_co], warm_up: int) -> None:
        self._batches, self._pace = batches, Pace(warm_up)

    def __getitem__(self, index: int) -> T_co:
        if index > 0:
            self._pace()
        return self._batches[index]


def interleave(workers: Mapping[str, Sequence[str]], rounds: int) -> dict[str, list[Any]]:
    """Seconds of each worker's steps, or what else it told its `Pace`. Each is a process (the command given);
    they take turns step by step, `rounds` times over, so that a machine that drifts drifts for all."""
    console = Console(stderr=True)
    running: dict[str, subprocess.Popen[str]] = {}
    found: dict[str, list[Any]] = {name: [] for name in workers}
    try:
        for name, command in workers.items():
            console.print(f"  warming up: {name}")
            running[name] = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            if _answer(running[name], name) != "ready":
                raise SystemExit(f"{name}: spoke before its warm-up ended")
        names = list(running)
        for number in range(rounds):
            for name in names[number % len(names) :] + names[: number % len(names)]:  # nobody is always first
                process = running[name]
                assert process.stdin is not None
                print("go", file=process.stdin, flush=True)
                found[name].append(json.loads(_answer(process, name)))
            if (number + 1) % 10 == 0:
                console.print(f"  {number + 1}/{rounds} rounds")
    finally:
        for process in running.values():
            assert process.stdin is not None
            process.stdin.close()  # a waiting worker ends and clears up behind itself
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
    return found


def peak_anonymous_bytes(command: Sequence[str], every: float = 0.01) -> int:
    """The most anonymous memory that a process holds until it ends, asked of the kernel every 10 ms: what it
    made, and not the files and libraries that it maps. A `Pace` in it ends it behind its warm-up."""
    peak = 0
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            held = [line for line in status.read_text(encoding="ascii").splitlines() if "RssAnon:" in line]
            peak = max(peak, *(int(line.split()[1]) * 1024 for line in held), 0)
            time.sleep(every)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}; its message is above")
    return peak


def _answer(process: subprocess.Popen[str], name: str) -> str:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line:
        raise SystemExit(f"{name}: the worker ended with status {process.wait()}; its message is above")
    return line


def answer_in_time(
    command: Sequence[str], label: str, seconds: float, *, least: float, most: float
) -> dict[str, Any]:
    """What a process says in the last line of its output, as JSON; {"failed": why} where it fails, or where
    `seconds` are left and it needs at `least` more than that. It is ended after `most`."""
    if seconds < least:
        return failed(label, f"left out: {seconds:.0f} s are nearly over")
    seconds = min(seconds, most)
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        return failed(label, f"ended after {seconds:.0f} s")
    if done.returncode:
        print(done.stderr[-4000:], file=sys.stderr)
        lines = done.stderr.strip().splitlines()
        return failed(label, f"status {done.returncode}: {lines[-1] if lines else 'it said nothing'}")
    return json.loads(done.stdout.splitlines()[-1])


def failed(label: str, reason: str) -> dict[str, Any]:
    """What stands in the place of figures."""
    print(f"{label}: {reason}")
    return {"failed": reason}


def known(file: Path) -> dict[str, float]:
    """The losses that a file keeps, by what they were measured of."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return {line["key"]: line["loss"] for line in map(json.loads, lines)}


def kept(file: Path, key: str, measure: Callable[[], float]) -> float:
    """The loss that a file keeps under a key; measured and kept if there is none."""
    found = known(file)
    if key not in found:
        found[key] = measure()
        with open(file, "a", encoding="utf-8") as lines:
            print(json.dumps({"key": key, "loss": found[key]}), file=lines)
    return found[key]


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Bounds of the median, whatever the distribution: the order statistics between which it lies with at
    least this confidence (each value is below the median with probability one half). With fewer than six
    values no pair is wide enough, and the outermost are given."""
    ordered, count = sorted(values), len(values)
    below, place = 0.0, 0
    while below + math.comb(count, place) / 2**count <= (1 - confidence) / 2:
        below += math.comb(count, place) / 2**count
        place += 1
    first = max(place - 1, 0)
    return ordered[first], ordered[count - 1 - first]


def compare(
    name: str, unit: str, ours: Sequence[float], peer: Sequence[float], peer_name: str, bar: float | None
) -> Row:
    """Medians, and the ratio round by round (higher figures are better)."""
    ratios = [a / b for a, b in zip(ours, peer, strict=True)]
    low, high = median_interval(ratios)
    return Row(
        name=name,
        unit=unit,
        ours=statistics.median(ours),
        peer=statistics.median(peer),
        peer_name=peer_name,
        ratio=statistics.median(ratios),
        low=low,
        high=high,
        rounds=len(ratios),
        bar=bar,
    )


def publish_cases(
    benchmark: str,
    keys: Sequence[str],
    cases: Mapping[str, Any],
    measure: Callable[[str, str], tuple[list[Row], dict[str, Any]]],
    packages: Sequence[str],
    notes: str,
) -> None:
    """Measure those of `cases` that `keys` names, and publish each with what the result file has of others
    and of other machines. `measure`: (title, key) -> rows whose names begin with the title and a colon, and
    what else there is to keep."""
    file, here = RESULTS / f"{benchmark}.json", machine()["processor"]
    before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"rows": [], "cases": {}}
    kept_cases, rows = before["cases"], [Row(**row) for row in before["rows"]]

    def place_of(row: Row) -> tuple[str, int]:
        """One machine after the other, each in the order of the cases."""
        title = row.name.partition(":")[0]
        key = max((key for key in cases if title.startswith(key)), key=len)
        return title.removeprefix(key), list(cases).index(key)

    for key in keys:
        title = f"{key}, {here}"
        found, kept_cases[title] = measure(title, key)
        rows = sorted([row for row in rows if row.name.partition(":")[0] != title] + found, key=place_of)
        publish(benchmark, rows, packages, notes, {"cases": kept_cases})


def publish(
    benchmark: str,
    rows: Sequence[Row],
    packages: Sequence[str],
    notes: str,
    found: Mapping[str, Any] | None = None,
) -> None:
    """Print the table and write `results/<benchmark>.json`; `found` is what else it says beside the rows."""
    result: dict[str, Any] = {
        "benchmark": benchmark,
        "date": datetime.now(UTC).date().isoformat(),
        "revision": code_revision(),
        "hardware": machine() | {"python": platform.python_version()},
        "versions": {package: version(package) for package in packages},
        "notes": notes,
        **(found or {}),
        "rows": [asdict(row) for row in rows],
    }
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(result, indent=2) + "\n"
    (RESULTS / f"{benchmark}.json").write_text(text, encoding="utf-8")
    table = Table("what", "unit", "ours", "peer", "peer is", "ratio", "low-high", "bar", title=benchmark)
    for row in rows:
        bar = "" if row.bar is None else f"{row.bar:.1f}"
        figures = f"{row.ours:,.0f}", f"{row.peer:,.0f}", row.peer_name, f"{row.ratio:.2f}"
        table.add_row(row.name, row.unit, *figures, f"{row.low:.2f}-{row.high:.2f}", bar)
    Console().print(table)
