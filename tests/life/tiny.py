"""The recipe `tiny`, made tinier: what the tests of a whole life run, and the process that is killed."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from modelwright.base import run as run_module
from modelwright.base.artifact import Artifact
from modelwright.base.run import Run
from modelwright.cli import main
from modelwright.formats.huggingface import load_model
from modelwright.recipes.stations import WHOLE_LIFE
from modelwright.stages import views
from modelwright.stages.views import ConversationView
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.shards import TokenShards

SETTINGS: dict[str, Any] = {
    "data.atlas_size_bytes": 150_000,
    "data.validation_fraction": 0.05,
    "pretrain.tokens": 30_000,
    "pretrain.validate_every": 10,
    "finetune.conversations": 150,
    "finetune.checkpoint_every": 8,
    "align.validation_pairs": 32,
    "evaluate.suites": ["facts_seen", "arithmetic"],
    "evaluate.prompts": ["The capital of France is"],
    # Which format is the faster one is timed; the tests need the same bits from every process.
    "pretrain.compute": {"dtype": "float32", "compile": "never"},
    "finetune.compute": {"dtype": "float32", "compile": "never"},
    "align.compute": {"dtype": "float32", "compile": "never"},
}


def command(folder: Path, settings: dict[str, Any] | None = None) -> list[str]:
    """The arguments of `modelwright run tiny`."""
    values = SETTINGS | (settings or {})
    overrides = [part for key, value in values.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    return ["run", "tiny", "--out", str(folder), *overrides]


def artifacts(folder: Path) -> dict[str, Artifact]:
    """Every station's artifact; all of them must be there."""
    return {verb: Artifact.load(folder / verb) for verb in WHOLE_LIFE}


def ids(folder: Path) -> dict[str, str]:
    return {verb: made.id for verb, made in artifacts(folder).items()}


def metrics(folder: Path, verb: str) -> list[dict[str, Any]]:
    """The steps that a station wrote down."""
    return [json.loads(line) for line in (folder / verb / "metrics.jsonl").read_text().splitlines()]


def ancestors(artifact: Artifact) -> dict[str, Artifact]:
    """Stage -> artifact, for it and for all that it was made from. Each parent must lie where the
    manifest says, and be the very one that it names."""
    found = {artifact.stage: artifact}
    for parent in artifact.manifest.parents:
        made = Artifact.load(artifact.path / parent.path)
        assert made.id == parent.id, f"{artifact.stage}: another {parent.role} lies at {made.path}"
        found |= ancestors(made)
    return found


def documents(shards: TokenShards) -> Iterable[list[int]]:
    """The ids of each document, its end included."""
    for start, end in pairwise(shards.boundaries):
        yield shards.read(int(start), int(end - start)).tolist()


def held_out_loss(folder: Path, station: str) -> float:
    """Nats per token of a station's model on the held-out conversations of `finetune`, measured anew from
    the saved files."""
    made = Artifact.load(folder / "finetune").manifest
    view = ConversationView.model_validate(
        {name: made.config[name] for name in ConversationView.model_fields}
    )
    model_folder = folder / station / "model"
    quiet: Any = SimpleNamespace(log=lambda text: None)
    tokenizer = BPETokenizer.load(model_folder)
    with torch.no_grad():
        held_out = view.pack("validation", tokenizer, quiet, made.seed).batches
        return views.held_out_loss(load_model(model_folder), held_out)["validation_loss"]


def doomed(folder: Path, revision: str, station: str, at: int, said: Path) -> None:
    """In a process of its own: live, and be killed in the middle of a station. With `at` 0 that never comes.
    What standard error is told goes to `said`."""
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    # The card names the revision, and the checkout may change while the tests run.
    run_module.code_revision = lambda: revision  # pyright: ignore
    original = Run.metric

    def metric(self: Run, step: int, **values: Any) -> None:
        original(self, step, **values)
        if (self.stage, step) == (station, at):
            os.kill(os.getpid(), signal.SIGKILL)

    Run.metric = metric  # pyright: ignore
    sys.exit(main(command(folder)))
