"""What every benchmark shares: interleaved repeats, ratios with their spread, and the result file."""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from modelwright.base.run import code_revision, machine

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison. `ratio` above 1 means that ours is better; low and high are its extremes."""

    name: str
    unit: str
    ours: float
    peer: float
    peer_name: str
    ratio: float
    low: float
    high: float
    runs: int
    bar: float | None


def interleave(runners: dict[str, Callable[[], float]], runs: int) -> dict[str, list[float]]:
    """Call all runners in turn, `runs` times over, so that a machine that drifts drifts for all."""
    found: dict[str, list[float]] = {name: [] for name in runners}
    for number in range(runs):
        for name, measure in runners.items():
            found[name].append(measure())
            Console(stderr=True).print(f"  run {number + 1}/{runs}  {name}: {found[name][-1]:,.1f}")
    return found


def compare(
    name: str, unit: str, ours: Sequence[float], peer: Sequence[float], peer_name: str, bar: float | None
) -> Row:
    """Medians, and the ratio run by run (higher figures are better)."""
    ratios = [a / b for a, b in zip(ours, peer, strict=True)]
    return Row(
        name=name,
        unit=unit,
        ours=statistics.median(ours),
        peer=statistics.median(peer),
        peer_name=peer_name,
        ratio=statistics.median(ratios),
        low=min(ratios),
        high=max(ratios),
        runs=len(ratios),
        bar=bar,
    )


def publish(benchmark: str, rows: Sequence[Row], packages: Sequence[str], notes: str) -> None:
    """Print the table and write `results/<benchmark>.json`."""
    result: dict[str, Any] = {
        "benchmark": benchmark,
        "date": datetime.now(UTC).date().isoformat(),
        "revision": code_revision(),
        "hardware": machine() | {"python": platform.python_version()},
        "versions": {package: version(package) for package in packages},
        "notes": notes,
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
