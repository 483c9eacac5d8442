"""A recipe lived by two processes, killed in every station that trains, ends as one process ends it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from modelwright.base.artifact import Artifact
from modelwright.base.metrics import read_metrics
from modelwright.cli import main

ROOT = Path(__file__).parents[2]
STATIONS = ("pretrain", "finetune", "align")
SETTINGS = [f"--set={station}.compute.dtype=float32" for station in STATIONS]
SETTINGS += [f"--set={station}.checkpoint_every=2" for station in STATIONS]
SETTINGS += ["--set=pretrain.tokens=10000", "--set=finetune.conversations=60"]


def values(station: Path) -> dict[str, list[float]]:
    lines = list(read_metrics(station / "metrics.jsonl"))
    return {name: [line[name] for line in lines] for name in ("tokens", "loss", "grad_norm")}


@pytest.mark.slow
def test_two_processes_live_as_one_does_and_survive_their_deaths(tmp_path):
    alone, together, markers = (tmp_path / name for name in ("alone", "together", "markers"))
    markers.mkdir()
    life = ["run", "tiny", "--until=align", "--quiet", *SETTINGS]
    assert main([*life, f"--out={alone}"]) == 0
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    worker = ["-m", "tests.life.killed", str(markers), *life, f"--out={together}"]
    command = [*torchrun, "--max-restarts=3", *worker]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-6000:]
    assert {path.name for path in markers.iterdir()} == {*STATIONS}, "nobody was killed"
    for station in STATIONS:
        found, expected = (values(folder / station) for folder in (together, alone))
        assert found["tokens"] == expected["tokens"]
        for name in ("loss", "grad_norm"):
            assert found[name] == pytest.approx(expected[name], rel=1e-4)
        manifest = Artifact.load(together / station).manifest
        assert manifest.environment["processes"] == "2: 2 shards"
        assert Artifact.load(together / station).damage(hashes=True) is None
