"""The launch files, as far as a machine without Slurm and SkyPilot can run them: their shell, with scripts in
the place of what a cluster has."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

LAUNCH = Path(__file__).parents[2] / "launch"
pytestmark = pytest.mark.skipif(not shutil.which("bash"), reason="no bash here")


def stand_in(folder: Path, name: str, script: str) -> None:
    """A command of this name that does something else."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/bash\n{script}\n")
    (folder / name).chmod(0o755)


def run_shell(command: list[str], commands: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run bash with these variables, finding commands in a folder first."""
    environment = {"PATH": f"{commands}:{os.environ['PATH']}", **variables}
    return subprocess.run(["bash", *command], capture_output=True, text=True, env=environment, timeout=60)


def test_slurm_starts_one_torchrun_a_node_that_has_all_of_its_cores(tmp_path: Path) -> None:
    commands = tmp_path / "commands"
    stand_in(commands, "scontrol", "printf 'node1\\nnode2\\n'")
    stand_in(commands, "srun", 'echo "cores $SRUN_CPUS_PER_TASK, threads $OMP_NUM_THREADS: $*"; exit 3')
    done = run_shell(
        [str(LAUNCH / "slurm.sbatch"), "tiny", "--out", "/shared/one two"],
        commands,
        SLURM_JOB_NODELIST="node[1-2]",
        SLURM_CPUS_PER_TASK="64",
        SLURM_GPUS_ON_NODE="8",
        SLURM_NNODES="2",
        SLURM_JOB_ID="7",
        SLURM_RESTART_COUNT="1",
    )
    assert done.returncode == 3, "what became of the job is passed on"
    assert "cores 64, threads 8: torchrun --nnodes=2 --nproc-per-node=8" in done.stdout
    assert "--rdzv-endpoint=node1:29500 --rdzv-id=7-1" in done.stdout
    assert "-m modelwright run tiny --out /shared/one two" in done.stdout


def test_slurm_without_a_recipe_says_what_to_give(tmp_path: Path) -> None:
    done = run_shell([str(LAUNCH / "slurm.sbatch")], tmp_path)
    assert done.returncode and "give a recipe" in done.stderr


@pytest.mark.parametrize("status", [0, 1])
def test_skypilot_works_on_a_disk_and_takes_all_of_it_to_the_bucket(tmp_path: Path, status: int) -> None:
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text(encoding="utf-8"))
    (bucket,) = task["file_mounts"]
    assert not task["envs"]["OUT"].startswith(bucket), "logs are appended to, which a bucket does not take"
    commands, out, there = tmp_path / "commands", tmp_path / "out", tmp_path / "bucket"
    (there / "pretrain").mkdir(parents=True)
    (there / "pretrain" / "log.txt").write_text("before\n")
    stand_in(commands, "rsync", 'echo "$*" >> "$LOG"; cp -r "${@: -2:1}". "${@: -1}"')
    stand_in(commands, "torchrun", f'echo "$*"; echo after >> "$OUT/pretrain/log.txt"; exit {status}')
    run = task["run"].replace(bucket, str(there))
    done = run_shell(
        ["-c", run],
        commands,
        RECIPE="tiny",
        OUT=str(out),
        LOG=str(tmp_path / "calls"),
        SKYPILOT_NODE_IPS="10.0.0.1\n10.0.0.2",
        SKYPILOT_NUM_NODES="1",
        SKYPILOT_NUM_GPUS_PER_NODE="8",
    )
    assert done.returncode == status, done.stderr
    assert "--rdzv-endpoint=10.0.0.1:29500" in done.stdout and "run tiny --out" in done.stdout
    assert (there / "pretrain" / "log.txt").read_text() == "before\nafter\n"
    brought, first, last = (tmp_path / "calls").read_text().splitlines()
    assert brought.endswith(f"{there}/ {out}/") and "--delete" not in brought
    assert "--exclude=manifest.json" in first and "--delete" not in first
    assert "manifest" not in last and "--delete" in last
