"""What is sampled, and where energy comes from."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from modelwright.base.resources import ASSUMED_WATTS_PER_CPU, CpuEnergy, Watch, resident_bytes


def counter(folder: Path, name: str, value: int, wrap: int = 1_000_000) -> Path:
    domain = folder / name
    domain.mkdir(parents=True, exist_ok=True)
    (domain / "energy_uj").write_text(str(value))
    (domain / "max_energy_range_uj").write_text(str(wrap))
    return domain / "energy_uj"


def test_packages_are_metered_and_their_parts_not_counted_twice(tmp_path: Path) -> None:
    first, second = counter(tmp_path, "intel-rapl:0", 100), counter(tmp_path, "intel-rapl:1", 999_000)
    part = counter(tmp_path, "intel-rapl:0:0", 0)
    meter = CpuEnergy(tmp_path)
    first.write_text("500100")
    second.write_text("1000")  # it has wrapped around
    part.write_text("400000")
    assert meter.source == "RAPL"
    assert meter.joules(1.0) == pytest.approx(0.5 + 0.002)
    assert meter.joules(1.0) == 0


def test_without_a_meter_an_assumption_is_named(tmp_path: Path) -> None:
    meter = CpuEnergy(tmp_path)
    assert "assumed" in meter.source
    assert meter.joules(3.0) % (3 * ASSUMED_WATTS_PER_CPU) == pytest.approx(0)


def test_samples_go_on_from_an_earlier_session() -> None:
    lines: list[dict[str, float]] = []
    with Watch(lines.append, energy_wh=5.0, seconds=100.0, every=0.01) as watch:
        time.sleep(0.1)
    assert len(lines) >= 2 and watch.energy_wh > 5 and watch.seconds > 100.05
    assert [line["watched_seconds"] for line in lines] == sorted(line["watched_seconds"] for line in lines)
    assert lines[-1]["rss_bytes"] == pytest.approx(resident_bytes(), rel=0.5)
