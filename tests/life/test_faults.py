"""Faults in the middle of a training that was started by its command: each is found, said, and got over;
killed around them it decides the same again; and two processes decide as one."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import children

from modelwright.base.artifact import Artifact
from modelwright.base.metrics import read_metrics
from modelwright.base.world import place
from modelwright.cli import main
from modelwright.training import loop
from modelwright.training.spread import Share, Spread

GRADIENT, WEIGHT, BATCH, JUMP = 12, 16, 34, 40
"""The steps of the faults: an infinite gradient, a weight that is no number, a batch of garbage, and weights
that are thirty times as large from then on."""
DECIDED = {GRADIENT: "skip", WEIGHT: "roll back", BATCH: "skip", JUMP: "skip", 41: "skip", 42: "roll back"}
STEPS = 48
BROKEN = "model.layers.0.mlp.up_proj.weight"
EMBEDDING = "model.embed_tokens.weight"
RECIPE: dict[str, Any] = {
    "name": "faulty",
    "stages": ["prepare", "tokenize", "pretrain"],
    "tokenizer": {"vocab_size": 300},
    "model": {"depth": 1, "hidden_size": 32, "head_dim": 16, "max_position_embeddings": 64},
    "pretrain": {
        "tokens": STEPS * 96,
        "context": 24,
        "rows": 4,
        "validate_every": 16,
        "checkpoint_every": 5,
        "guard": {"settled": 8, "window": 16, "deviations": 4.0},
        "compute": {"dtype": "float32", "compile": "never", "device": "cpu"},
    },
}


@torch.no_grad()
def before_pass(step: int, spread: Spread, shares: list[Share], last: bool) -> list[Share]:
    """What has gone wrong when a step begins; its shares of the batch."""
    if step == WEIGHT and last:
        spread.pieces()[BROKEN].view(-1)[3] = math.nan
    if step == JUMP:
        spread.pieces()[EMBEDDING].mul_(30.0)
    if step != BATCH:
        return shares
    random = torch.Generator().manual_seed(step)
    targets = [torch.randint(0, 256, share.batch.targets.shape, generator=random) for share in shares]
    return [
        dataclasses.replace(share, batch=dataclasses.replace(share.batch, targets=garbage))
        for share, garbage in zip(shares, targets, strict=True)
    ]


def live(arguments: list[str], deadly: int) -> None:
    """`modelwright ARGUMENTS` with these faults; the last process is killed as it begins step `deadly` (0:
    never). Weights and gradients break in its pieces alone."""
    original, world = loop._accumulate, place()
    last = world.rank == world.size - 1

    def faulty(
        spread: Spread, objective: Any, shares: list[Share], count: int, optimizer: Any, at: int
    ) -> Any:
        if at + 1 == deadly and last:
            os.kill(os.getpid(), signal.SIGKILL)
        sums = original(spread, objective, before_pass(at + 1, spread, shares, last), count, optimizer, at)
        gradient = spread.pieces()[BROKEN].grad
        if at + 1 == GRADIENT and last and gradient is not None:
            gradient.view(-1)[5] = math.inf
        return sums

    loop._accumulate = faulty
    sys.exit(main(arguments))


def recipe_in(folder: Path) -> Path:
    """A few texts, and the recipe that reads them."""
    (folder / "text").mkdir(parents=True)
    for number in range(20):
        text = f"The owl number {number} met {number * 7} foxes in {number * 13} trees. "
        (folder / "text" / f"{number}.txt").write_text(text * (1 + number % 3))
    recipe = folder / "recipe.yaml"
    recipe.write_text(json.dumps(RECIPE | {"data": {"sources": [{"path": str(folder / "text")}]}}))
    return recipe


def lived(recipe: Path, folder: Path, processes: int, *deadly: int) -> Path:
    """What a training leaves that is killed in these steps, and then is left to end."""
    arguments, errors = ["run", str(recipe), "--quiet", f"--out={folder}"], folder.with_suffix(".errors")
    for step in (*deadly, 0):
        codes = children.run_together(errors, processes, live, arguments, step)
        assert codes[-1] == (-signal.SIGKILL if step else 0), errors.read_text()
    return folder / "pretrain"


@pytest.fixture(scope="module", params=[1, 2], ids=["one process", "two processes"])
def unbroken(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """(processes, the folder of a training that nobody killed)."""
    folder = tmp_path_factory.mktemp("unbroken")
    return request.param, lived(recipe_in(folder), folder / "run", request.param)


def test_each_fault_is_found_said_and_got_over(unbroken: tuple[int, Path]) -> None:
    folder = unbroken[1]
    rows = {row["step"]: row for row in read_metrics(folder / "metrics.jsonl")}
    events = {step: row["event"] for step, row in rows.items() if "event" in row}
    assert {step: event.partition(":")[0] for step, event in events.items()} == DECIDED
    metrics = Artifact.load(folder).metrics
    assert (metrics["updates_withheld"], metrics["rollbacks"]) == (len(DECIDED), 2)
    log = (folder / "log.txt").read_text()
    gradient = f"gradients are not; the first in the backward pass is that of {BROKEN}"
    assert f"step {GRADIENT}: grad_norm not finite; the update is withheld" in log
    weight = f"the weights {BROKEN} hold values that are not finite"
    for step, cause in ((GRADIENT, gradient), (WEIGHT, weight)):
        assert cause in events[step] and f"step {step}: " in log and cause in log
    assert f"step {WEIGHT}: back to the weights after step 15" in log
    for step in (BATCH, JUMP, 41, 42):
        assert ": loss " in events[step] and f"step {step}: loss {rows[step]['loss']:.4g}, usual" in log
    assert "step 42: back to the weights after step 35" in log
    assert sorted(rows) == list(range(1, STEPS + 1))
    assert rows[WEIGHT + 1]["loss"] < rows[10]["loss"] * 1.1
    assert rows[STEPS]["loss"] < rows[JUMP - 1]["loss"] * 1.2 < rows[1]["loss"]
    assert metrics["validation_bits_per_byte"] < rows[16]["validation_bits_per_byte"]


def test_killed_around_the_faults_it_decides_the_same_again(
    unbroken: tuple[int, Path], tmp_path: Path
) -> None:
    """Killed behind a rollback, behind a skipped batch, amid a streak, and behind its rollback; two
    processes, whose start takes longer, amid the streak alone."""
    processes, expected = unbroken
    for station in ("prepare", "tokenize"):
        shutil.copytree(expected.parent / station, tmp_path / "run" / station)
    deadly = (WEIGHT + 1, BATCH + 1, JUMP + 1, 43) if processes == 1 else (JUMP + 1,)
    found = lived(expected.parents[1] / "recipe.yaml", tmp_path / "run", processes, *deadly)
    for file in ("metrics.jsonl", "model/model.safetensors"):
        assert (found / file).read_bytes() == (expected / file).read_bytes()
    assert Artifact.load(found).metrics["rollbacks"] == 2
