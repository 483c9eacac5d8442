"""A recipe whose processes are killed in every station that trains ends as the same life unbroken: with the
same bits, and two processes as one within rounding."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests import children
from tests.life import recording
from tests.life.killed import live

from modelwright.base.artifact import Artifact
from modelwright.base.metrics import read_metrics

ROOT = Path(__file__).parents[2]
STATIONS = ("pretrain", "finetune", "align")
SETTINGS = [f"--set={station}.compute.dtype=float32" for station in STATIONS]
SETTINGS += [f"--set={station}.checkpoint_every=4" for station in STATIONS]
SETTINGS += ["--set=pretrain.tokens=5000", "--set=finetune.conversations=80", "--set=align.pairs=64"]
SETTINGS += ["--set=data.atlas_size_bytes=150000", "--set=data.validation_fraction=0.05"]
MEASURED = dict.fromkeys(STATIONS, "validation_loss") | {"pretrain": "validation_bits_per_byte"}
LIFE = ["run", "tiny", "--until=align", "--quiet", *SETTINGS]
RTOL = 1e-4
"""Two processes against one: sums in another order, over three trainings one after the other."""


def unbroken(folder: Path, processes: int = 1) -> Path:
    """The life of processes that nobody kills: all of them have died before."""
    errors, markers = folder.with_suffix(".errors"), folder.with_suffix(".markers")
    markers.mkdir()
    for station in STATIONS:
        (markers / station).touch()
    codes = children.run_together(errors, processes, live, [*LIFE, f"--out={folder}"], markers)
    assert not any(codes), errors.read_text()
    return folder


def broken(folder: Path, processes: int = 1) -> Path:
    """The life of processes that are killed in each of the stations, and started again each time."""
    errors, markers = folder.with_suffix(".errors"), folder.with_suffix(".markers")
    markers.mkdir()
    for deaths in range(len(STATIONS) + 1):
        codes = children.run_together(errors, processes, live, [*LIFE, f"--out={folder}"], markers)
        if not any(codes):
            break
        assert codes[-1] == -signal.SIGKILL, errors.read_text()
        assert {path.name for path in markers.iterdir()} == {*STATIONS[: deaths + 1]}
    assert deaths == len(STATIONS), "nobody was killed"
    return folder


def beside(life: Path, name: str) -> Path:
    """A run directory that has its corpus and its tokens already."""
    for station in ("prepare", "tokenize"):
        shutil.copytree(life / station, life.with_name(name) / station)
    return life.with_name(name)


def assert_same_bits(found: Path, expected: Path) -> None:
    for station in STATIONS:
        for file in ("metrics.jsonl", "model/model.safetensors"):
            assert (found / station / file).read_bytes() == (expected / station / file).read_bytes()
        assert Artifact.load(found / station).damage(hashes=True) is None


def assert_nearly(found: Path, expected: Path) -> None:
    for station in STATIONS:
        assert "2: 2 shards" in Artifact.load(found / station).manifest.environment["processes"]
        lines, wanted = (list(read_metrics(life / station / "metrics.jsonl")) for life in (found, expected))
        for name in ("tokens", "loss", "grad_norm", MEASURED[station]):
            values = [line[name] for line in wanted if name in line]
            assert values and [line[name] for line in lines if name in line] == pytest.approx(
                values, rel=RTOL
            )


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process, unbroken: what the others are held against."""
    return unbroken(tmp_path_factory.mktemp("lives") / "alone")


def test_killed_in_every_training_one_process_ends_with_the_same_bits(alone: Path) -> None:
    assert_same_bits(broken(beside(alone, "alone and killed")), alone)


def test_killed_in_every_training_two_processes_end_with_the_same_bits(alone: Path) -> None:
    two = unbroken(beside(alone, "two"), processes=2)
    assert_nearly(two, alone)
    assert_same_bits(broken(beside(alone, "two and killed"), processes=2), two)


def test_all_processes_are_told_the_same_whatever_the_first_has_edited(tmp_path: Path) -> None:
    """What was forgotten in the directory leaves the recipe again, on the first process and on the others;
    settings of the command line reach all."""
    for name in ("owls", "foxes", "held"):
        turns = [{"role": "user", "content": "Hoo?"}, {"role": "assistant", "content": f"The {name}."}]
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    listed = [{"path": str(tmp_path / f"{name}.jsonl"), "name": name} for name in ("owls", "foxes")]
    held = [{"path": str(tmp_path / "held.jsonl"), "name": "held"}]
    settings = {"sources": listed, "validation_sources": held}
    recipe = {"name": "x", "stages": list(recording.STATIONS), "finetune": settings}
    folder, notes, given = tmp_path / "run", tmp_path / "notes", tmp_path / "given.yaml"
    for made in (folder, notes):
        made.mkdir()
    given.write_text(json.dumps(recipe))  # JSON is YAML
    (folder / "recipe.yaml").write_text(json.dumps({**recipe, "data": {"forget": ["foxes"]}}))
    errors = tmp_path / "errors"
    for tokens, again in ((5000, []), (6000, ["--force"])):
        arguments = ["run", str(given), f"--out={folder}", f"--set=pretrain.tokens={tokens}", *again]
        codes = children.run_together(errors, 2, recording.live, arguments, notes)
        assert codes == [0, 0], errors.read_text()
        lines = [(notes / rank).read_text().splitlines() for rank in ("0", "1")]
        first, other = ([json.loads(line) for line in each] for each in lines)
        assert [told["stage"] for told in first[-4:]] == [*recording.STATIONS]
        assert other[-2:] == first[-2:]
        assert other[-2]["config"]["tokens"] == tokens
        assert [source["name"] for source in other[-1]["config"]["sources"]] == ["owls"]
        assert {*other[-1]["inputs"]} == {"model"}


@pytest.mark.slow
def test_torchrun_starts_a_life_again_until_it_is_whole(alone: Path) -> None:
    folder, markers = beside(alone, "torchrun"), alone.with_name("torchrun.markers")
    markers.mkdir()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    worker = ["-m", "tests.life.killed", str(markers), *LIFE, f"--out={folder}"]
    command = [*torchrun, "--max-restarts=3", *worker]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-6000:]
    assert {path.name for path in markers.iterdir()} == {*STATIONS}, "nobody was killed"
    assert_nearly(folder, alone)
