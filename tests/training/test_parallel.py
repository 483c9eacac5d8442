"""Real processes over gloo train what one process trains: the same losses, weights and tokens.

A start costs more than the trainings in it, so each does many (tests/training/together.py).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests import children
from tests.training.together import continue_from, main, train_together

from modelwright.base.metrics import read_metrics
from modelwright.base.world import World
from modelwright.stages.average import Config, gather
from modelwright.training.checkpoint import Checkpoints
from modelwright.training.keeping import BEST

ROOT = Path(__file__).parents[2]
Task = dict[str, Any]
OFTEN = {"checkpoint_every": 2, "validate_every": 2, "keep_checkpoints": 9}
MUON: Task = {"steps": 4, "loop": OFTEN}
ADAMW: Task = {"steps": 4, "loop": OFTEN | {"optimizer": {"kind": "adamw", "weight_decay": 0.1}}}
NORMUON: Task = {
    "steps": 6,
    "loop": OFTEN | {"optimizer": {"even_neurons": True, "cautious": True, "weight_decay": 0.1}},
}
VARIANT = {"even_neurons": True, "iteration": "polar", "scale": "rms", "weight_decay": 0.1}
POLAR: Task = {"steps": 6, "loop": OFTEN | {"optimizer": VARIANT | {"decay_falls": True}}}
LORA: Task = ADAMW | {"adapter": {"rank": 2}, "compute": {}}
HALVES: Task = {"steps": 4, "loop": OFTEN | {"accumulation": 2}}
MIXTURE = {"architecture": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2}
MIXTURE |= {"moe_intermediate_size": 16}
AVERAGES = {"half_lives": [0.2], "tails": [0.5], "powers": [0.05, 0.1], "snapshots": 3}
AVERAGED: Task = {"steps": 6, "loop": OFTEN | {"averages": AVERAGES}}
KEPT: Task = {"steps": 6, "sign": -1, "loop": OFTEN | {"keep": "best", "stop_early": {"patience": 1}}}
"""What is measured rises from the start: step 4 is the last, and the weights after step 2 are kept."""
UNTIED = {"tie_word_embeddings": False, "architecture": "qwen2", "hidden_size": 24}
ODD = {"model": {"vocab_size": 41, "num_key_value_heads": 4}, "length": 13}
"""Neither the words nor a row's tokens can be dealt out evenly."""
FSDP, TENSOR = {"shard": "fsdp"}, {"tensor_parallel": 2}


def written(folder: Path, tasks: dict[str, Task]) -> Path:
    """The tasks as `together.main` reads them: each is done in the folder of its name."""
    file = folder / "tasks.json"
    file.write_text(json.dumps([{"name": name} | task for name, task in tasks.items()]))
    return file


def together(folder: Path, processes: int, tasks: dict[str, Task]) -> int:
    """The exit code of the last process."""
    errors = folder / f"errors of {processes}"
    code = children.run_together(errors, processes, main, written(folder, tasks))[-1]
    assert code in (0, -signal.SIGKILL), errors.read_text()
    return code


def torchrun(file: Path, processes: int, *options: str) -> None:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}",
        *options, "-m", "tests.training.together", str(file),
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TORCHELASTIC_ERROR_FILE": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-6000:]


def alone(folder: Path, task: Task) -> Path:
    train_together(folder, task | {"compute": {}}, World())
    return folder


def values(folder: Path, name: str) -> list[float]:
    return [line[name] for line in read_metrics(folder / "metrics.jsonl") if name in line]


def loads(folder: Path) -> list[float]:
    """The loads of the experts of a mixture, in all checkpoints; of a dense network, none."""
    found = Checkpoints(folder / "checkpoints", keep=9).all()
    layers = [layer for one in found for layer in one.state()["adapting"].get("load", ())]
    return [load for layer in layers for load in layer]


def assert_same_training(found: Path, expected: Path) -> None:
    """Losses and norms within 1e-5; weights nearly, since Adam's first steps magnify what rounds to zero."""
    for name in ("loss", "grad_norm", "validation_loss"):
        assert values(found, name) == pytest.approx(values(expected, name), rel=1e-5, abs=1e-5)
    assert loads(found) == pytest.approx(loads(expected), abs=1e-6)
    assert values(found, "tokens") == values(expected, "tokens")
    weights, wanted = load_file(found / "end.safetensors"), load_file(expected / "end.safetensors")
    assert weights.keys() == wanted.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, wanted[name], rtol=1e-4, atol=2e-4)


FOUR: dict[str, Task] = {
    "fsdp muon": MUON | {"compute": FSDP},
    "fsdp adamw": ADAMW | {"compute": FSDP},
    "fsdp, fewer rows than processes": MUON | {"compute": FSDP, "rows": 3},
    "fsdp, mixture, fewer rows than processes": ADAMW | {"compute": FSDP, "rows": 3, "model": MIXTURE},
    "hsdp 2x2, averages": AVERAGED | {"compute": {"shard": "hsdp", "shard_size": 2}},
    "hsdp 2x2 muon": MUON | {"compute": {"shard": "hsdp", "shard_size": 2}},
    "hsdp 2x2 adamw": ADAMW | {"compute": {"shard": "hsdp", "shard_size": 2}},
    "fsdp x tensor 2x2 muon": MUON | {"compute": TENSOR | FSDP},
    "fsdp x tensor 2x2 adamw": ADAMW | {"compute": TENSOR | FSDP},
    "replicas x tensor 2x2, untied, biases, uneven": MUON
    | {"compute": TENSOR | {"shard": "none"}, "model": UNTIED},
    "fsdp x tensor 2x2, mixture": ADAMW | {"compute": TENSOR | FSDP, "model": MIXTURE},
    "fsdp x tensor 2x2, uneven words and tokens": ADAMW | ODD | {"compute": TENSOR | FSDP},
    "tensor 4, uneven words and tokens": MUON | ODD | {"compute": {"tensor_parallel": 4}},
    "fsdp, untied, biases, uneven": HALVES | {"compute": FSDP, "model": UNTIED},
    "fsdp, whole micro-batches": MUON | {"compute": FSDP, "loop": OFTEN | {"accumulation": 4}, "rows": 1},
    "fsdp in the background": MUON | {"compute": FSDP, "loop": OFTEN | {"checkpoint_in_background": True}},
    "fsdp normuon": NORMUON | {"compute": FSDP},
    "hsdp 2x2 normuon, polar": POLAR | {"compute": {"shard": "hsdp", "shard_size": 2}},
    "fsdp x tensor 2x2 normuon": NORMUON | {"compute": TENSOR | FSDP},
    "fsdp normuon, untied, biases, uneven": NORMUON | {"compute": FSDP, "model": UNTIED},
    "fsdp normuon, polar, mixture": POLAR | {"compute": FSDP, "model": MIXTURE},
    "adapter 4": LORA | {"adapter": {"rank": 2, "kind": "dora"}},
    "adapter 4, fewer rows than processes": LORA | {"rows": 3},
}
TWO: dict[str, Task] = {
    "tensor 2 muon": MUON | {"compute": TENSOR},
    "tensor 2 adamw": ADAMW | {"compute": TENSOR},
    "fsdp 2, mixture, fewer rows than processes": ADAMW | {"compute": FSDP, "rows": 1, "model": MIXTURE},
    "fsdp 2, averages": AVERAGED | {"compute": FSDP},
    "fsdp 2, the best is kept": KEPT | {"compute": FSDP},
    "replicas 2": HALVES | {"compute": {"shard": "none"}},
    "from 4 to 2": MUON | {"compute": FSDP, "from": "fsdp x tensor 2x2 muon"},
    "tensor 2, mixture, computed again": ADAMW
    | {"compute": TENSOR | {"activation_checkpointing": "selective"}, "model": MIXTURE, "length": 13},
    "tensor 2, computed again": ADAMW | {"compute": TENSOR | {"activation_checkpointing": "full"}},
    "tensor, from 4 to 2": MUON | ODD | {"compute": TENSOR, "from": "tensor 4, uneven words and tokens"},
    "from 1 to 2": MUON | {"compute": TENSOR, "from": "one"},
    "fsdp 2 normuon, polar": POLAR | {"compute": FSDP},
    "tensor 2 normuon": NORMUON | {"compute": TENSOR},
    "normuon, from 4 to 2": NORMUON | {"compute": FSDP, "from": "fsdp x tensor 2x2 normuon"},
    "normuon, polar, mixture, from 4 to 2": POLAR
    | {"compute": FSDP, "model": MIXTURE, "from": "fsdp normuon, polar, mixture"},
    "adapter 2": LORA,
    "adapter 2 beside 4 bits": LORA | {"nf4": True},
    "adapter 2, averages": LORA | {"steps": 6, "loop": ADAMW["loop"] | {"averages": AVERAGES}},
    "adapter 2, mixture": LORA | {"adapter": {"rank": 2, "layers": ["*", "*.experts.*"]}, "model": MIXTURE},
    "adapter, from 4 to 2": LORA | {"from": "adapter 4, fewer rows than processes", "rows": 3},
    "killed while it wrote a checkpoint": ADAMW | {"compute": FSDP, "die": ["save_pieces", 5]},
    "adapter, killed in a step": LORA | {"die": ["_accumulate", 3]},
}
AGENT: dict[str, Task] = {"killed in a step": MUON | {"compute": FSDP, "die": ["_accumulate", 3]}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """FOUR in one start, and TWO in one more after each death; AGENT by torchrun, which starts it again by
    itself."""
    folder = tmp_path_factory.mktemp("trained")
    alone(folder / "one", MUON)
    alone(folder / "one, normuon", NORMUON)
    assert together(folder, 4, FOUR) == 0
    assert [together(folder, 2, TWO) for _ in range(3)] == [-signal.SIGKILL, -signal.SIGKILL, 0]
    torchrun(written(folder, AGENT), 2, "--max-restarts=2")
    return folder


@pytest.mark.parametrize("name", [*FOUR, *TWO, *AGENT])
def test_several_processes_train_as_one_does(name, trained, tmp_path):
    assert_same_training(trained / name, alone(tmp_path, (FOUR | TWO | AGENT)[name]))


def test_several_processes_stop_at_the_same_time(trained):
    folder = trained / "fsdp 2, the best is kept"
    assert len(values(folder, "loss")) == 4
    assert [path.name for path in (folder / BEST / "checkpoints").iterdir()] == ["step-00000002"]


@pytest.mark.parametrize(
    ("source", "task"),
    [
        ("tensor 4, uneven words and tokens", MUON | ODD),
        ("killed in a step", MUON),
        ("tensor 2 normuon", NORMUON),
        ("fsdp x tensor 2x2 normuon", NORMUON),
    ],
)
def test_one_process_goes_on_from_a_checkpoint_of_several(source, task, trained, tmp_path):
    continue_from(trained / source, tmp_path / "broken")
    assert_same_training(alone(tmp_path / "broken", task), alone(tmp_path / "unbroken", task))


def test_the_deaths_took_place_and_left_nothing(trained):
    for name in (name for name, task in (TWO | AGENT).items() if "die" in task):
        assert (trained / f"{name} has died").exists()
        left = sorted(path.name for path in (trained / name / "checkpoints").iterdir())
        assert left == ["step-00000002", "step-00000004"]


def test_a_checkpoint_written_in_the_background_is_the_same(trained):
    for step in ("step-00000002", "step-00000004"):
        names = ("fsdp muon", "fsdp in the background")
        direct, background = (trained / name / "checkpoints" / step for name in names)
        files = sorted(path.name for path in direct.iterdir())
        assert files == sorted(path.name for path in background.iterdir())
        assert all((direct / file).read_bytes() == (background / file).read_bytes() for file in files)


def test_a_checkpoint_in_pieces_holds_what_a_whole_one_holds(trained):
    muon = ("fsdp muon", "hsdp 2x2 muon", "fsdp x tensor 2x2 muon", "tensor 2 muon")
    normuon = ("fsdp normuon", "fsdp x tensor 2x2 normuon", "tensor 2 normuon")
    pairs = [("one", name) for name in muon] + [("one, normuon", name) for name in normuon]
    for one, name in pairs:
        whole = Checkpoints(trained / one / "checkpoints", keep=9).all()[0]
        pieces = Checkpoints(trained / name / "checkpoints", keep=9).all()[0]
        pieces.verify()
        for part in ("model", "optimizer", "averages"):
            found, expected = pieces.tensors(part), whole.tensors(part)
            assert found.keys() == expected.keys()
            for key, tensor in found.items():
                torch.testing.assert_close(tensor, expected[key], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["fsdp 2, averages", "hsdp 2x2, averages"])
def test_one_process_averages_what_several_have_left(name, trained, tmp_path):
    """All candidates of `average`, out of checkpoints and snapshots in pieces and out of whole ones."""
    folders = trained / name, alone(tmp_path, AVERAGED)
    whole = {"stage": "pretrain", "metrics": {}, "manifest": SimpleNamespace(config={})}
    sources: list[Any] = [SimpleNamespace(path=folder, **whole) for folder in folders]
    found, expected = (gather(source, Config()) for source in sources)
    assert found.keys() == expected.keys()
    kinds = {each.split()[0] for each in found}
    assert kinds == {"last", "ema", "tail", "power", "uniform"}
    assert any(each.endswith("from 3 snapshots") for each in found)
    for candidate, load in found.items():
        weights, wanted = load(), expected[candidate]()
        assert weights.keys() == wanted.keys()
        for key, weight in weights.items():
            torch.testing.assert_close(weight, wanted[key], rtol=1e-4, atol=2e-4, msg=f"{candidate}: {key}")
