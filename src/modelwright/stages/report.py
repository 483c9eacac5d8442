"""The report of a run: what the last station is followed by."""

from __future__ import annotations

from pathlib import Path

from modelwright.evaluation import report


def write_report(run_dir: Path) -> Path:
    """Write `report.html` over whatever stages are finished; returns its path."""
    return report.write_report(run_dir)
