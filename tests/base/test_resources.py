"""What is sampled, and where energy comes from."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from modelwright.base.resources import ASSUMED_WATTS_PER_CPU, CpuEnergy, GpuMeter, Watch, resident_bytes


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


def nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """One GPU as torch names it, and a tool of that name on the path, which keeps what it was asked."""
    tool = folder / "nvidia-smi"
    tool.write_text(f'#!/bin/sh\necho "$@" >> {folder}/asked\n{script}\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda at: SimpleNamespace(uuid=f"1234-abc{'defg'[at]}")
    )


def test_a_gpu_is_asked_for_by_its_name_and_its_power_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvidia_smi(tmp_path, monkeypatch, "echo '87, 1024, 250.50'")
    lines: list[dict[str, float]] = []
    with Watch(lines.append, every=60) as watch:
        time.sleep(0.05)
    assert "--id=GPU-1234-abcd" in (tmp_path / "asked").read_text()
    assert "GPU: nvidia-smi" in watch.source
    found = {name: lines[-1][name] for name in ("gpu_busy", "gpu_memory_bytes", "gpu_watts")}
    assert found == {"gpu_busy": 0.87, "gpu_memory_bytes": 2**30, "gpu_watts": 250.5}
    if "RAPL" not in watch.source:
        watts = 250.5 + ASSUMED_WATTS_PER_CPU * (os.cpu_count() or 1)
        assert watch.energy_wh == pytest.approx(watts * watch.seconds / 3600)


def test_the_first_process_meters_the_gpus_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four processes on two machines: two GPUs are asked, and the other machine is taken to be like this."""
    nvidia_smi(tmp_path, monkeypatch, "printf '80, 1024, 250.0\\n60, 2048, 150.0\\n'")
    here = {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "x"}
    for name, value in here.items():
        monkeypatch.setenv(name, value)
    lines: list[dict[str, float]] = []
    with Watch(lines.append, every=60) as watch:
        time.sleep(0.05)
    assert "--id=GPU-1234-abcd,GPU-1234-abce" in (tmp_path / "asked").read_text()
    assert "nvidia-smi, 2 GPUs; 2 machines, one of them metered" in watch.source
    found = {name: lines[-1][name] for name in ("gpu_busy", "gpu_memory_bytes", "gpu_watts")}
    assert found == {"gpu_busy": pytest.approx(0.7), "gpu_memory_bytes": 2**31, "gpu_watts": 400.0}
    assert watch.energy_wh > 2 * 400 * watch.seconds / 3600


@pytest.mark.parametrize("script", ["exit 9", "echo '[N/A], 1024, [N/A]'", "echo"])
def test_a_gpu_that_cannot_be_read_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    nvidia_smi(tmp_path, monkeypatch, script)
    meter = GpuMeter()
    assert meter.source == "nvidia-smi"
    assert meter.read() == meter.read() == {}
    assert meter.source == "no meter, not counted"
    assert len((tmp_path / "asked").read_text().splitlines()) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux begins a new peak")
def test_what_a_work_has_freed_goes_back_and_its_peak_is_forgotten() -> None:
    """In a process of its own: what malloc keeps for the next block, and a peak that is no longer the
    process's."""
    code = """
from modelwright.base.device import keep_freed_memory
from modelwright.base.resources import *
import torch
assert keep_freed_memory()
kept = []
for _ in range(60):  # small blocks between large ones keep the heap from shrinking by itself
    large = torch.ones(2**20)
    kept.append(torch.ones(10))
    del large
blocks = [torch.ones(2**20) for _ in range(40)]
kept.append(torch.ones(10))
before = peak_resident_bytes()
del blocks
held = resident_bytes()
return_unused_memory()
after = resident_bytes()
assert before - after > 120 * 2**20 > before - held, (before, held, after)
forget_peak()
assert peak_resident_bytes() < before - 100 * 2**20
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
