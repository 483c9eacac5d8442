"""The arithmetic that trainings record is that of their rows: counted here batch by batch, by hand."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from modelwright.base.artifact import Artifact
from modelwright.base.config import Config
from modelwright.base.metrics import read_metrics
from modelwright.base.run import Run
from modelwright.base.schema import IGNORE
from modelwright.formats.huggingface import load_config
from modelwright.model.config import ModelConfig
from modelwright.model.flops import matmul_parameters
from modelwright.stages import align, finetune, pretrain
from modelwright.training.batches import Batches

COMPUTE = {"device": "cpu", "dtype": "float32", "compile": "never"}


def forward(config: ModelConfig, batches: Batches, count: int) -> tuple[float, int]:
    """(FLOPs of a forward pass over micro-batches, tokens in them)."""
    linear = matmul_parameters(config) - config.hidden_size * config.vocab_size
    width, flops, tokens = config.num_attention_heads * config.head_dim, 0.0, 0
    for batch in (batches[index] for index in range(count)):
        segments = torch.zeros_like(batch.ids) if batch.segments is None else batch.segments
        lengths = [len(list(same)) for row in segments.tolist() for _, same in groupby(row)]
        supervised = int((batch.targets != IGNORE).sum())
        flops += 2 * (linear * batch.ids.numel() + config.hidden_size * config.vocab_size * supervised)
        flops += 4 * config.num_hidden_layers * width * sum(n * n for n in lengths)
        tokens += batch.ids.numel()
    return flops, tokens


class Watched:
    """A stage that was run, and the rows that it handed to the loop."""

    def __init__(
        self,
        stage: ModuleType,
        config: Config,
        inputs: dict[str, Artifact],
        folder: Path,
        patch: pytest.MonkeyPatch,
    ) -> None:
        seen: list[tuple[Batches, int, float]] = []
        train = stage.train_model

        def watched(*given: Any, flops: float, **named: Any) -> Any:
            batches, plan = given[-2:]
            seen.append((batches, plan.micro_batches, flops))
            return train(*given, flops=flops, **named)

        patch.setattr(stage, "train_model", watched)
        run = Run(folder, "station", "made", config, 3, inputs)
        try:
            self.made = stage.run(config, run)
        finally:
            run.close()
        ((self.batches, self.count, self.decided),) = seen
        self.network = load_config(self.made.file("model"))
        self.forward, self.tokens = forward(self.network, self.batches, self.count)

    def check(self, expected: float, beside: float = 0.0) -> None:
        """`expected`: FLOPs of all steps; `beside`: of what is no step."""
        cost, last = self.made.manifest.cost, list(read_metrics(self.made.path / "metrics.jsonl"))[-1]
        assert cost.tokens == last["tokens"] == self.tokens
        assert last["flops"] == pytest.approx(expected, rel=1e-9)
        assert self.decided == pytest.approx(expected, rel=1e-9), "what decides whether compiling pays"
        assert cost.flops == pytest.approx(expected + beside, rel=1e-9)
        assert "the mean token is in a document of " in (self.made.path / "log.txt").read_text()


def tuning(chats: Path, **settings: Any) -> finetune.Config:
    few = {"context": 120, "rows": 2, "epochs": 1, "validate_every": 50, "compute": COMPUTE}
    return finetune.Config.model_validate({"sources": [{"path": str(chats)}], **few, **settings})


@pytest.mark.parametrize("batching", ["packed", "grouped"])
def test_finetune_counts_documents_and_supervised_tokens(
    parent: Artifact, chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batching: str
) -> None:
    inputs = {"model": parent}
    found = Watched(finetune, tuning(chats, batching=batching), inputs, tmp_path, monkeypatch)
    found.check(3 * found.forward)


def test_beside_an_adapter_and_a_teacher(
    parent: Artifact, teacher: Path, chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frozen weights have no gradients; a teacher of another shape reads the same rows once."""
    config = tuning(chats, adapter={"rank": 2}, teacher={"model": str(teacher)})
    found = Watched(finetune, config, {"model": parent}, tmp_path, monkeypatch)
    taught, _ = forward(load_config(teacher), found.batches, found.count)
    found.check(3 * found.forward - weights_alone(found) + taught)


def weights_alone(found: Watched) -> float:
    """FLOPs of a forward pass without attention."""
    config, head = found.network, found.network.hidden_size * found.network.vocab_size
    supervised = sum(int((found.batches[n].targets != IGNORE).sum()) for n in range(found.count))
    return 2.0 * ((matmul_parameters(config) - head) * found.tokens + head * supervised)


def test_align_counts_its_reference_once(
    parent: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"Say {n}.", "chosen": "so " * (1 + n % 9), "rejected": "no"} for n in range(80)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"context": 120, "rows": 4, "epochs": 2, "validate_every": 50, "compute": COMPUTE}
    config = align.Config.model_validate({"sources": [{"path": str(file)}], **settings})
    found = Watched(align, config, {"model": parent}, tmp_path / "run", monkeypatch)
    found.check(3 * found.forward, beside=found.forward / 2)


def test_pretrain_counts_the_documents_in_its_windows(
    tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = {"depth": 1, "hidden_size": 32, "head_dim": 16}
    settings = {"tokens": 4000, "context": 64, "rows": 4, "validation_tokens": 200, "compute": COMPUTE}
    config = pretrain.Config.model_validate({"model": model, **settings})
    found = Watched(pretrain, config, {"tokens": Artifact.load(tokens)}, tmp_path, monkeypatch)
    found.check(3 * found.forward)
    one_document = found.tokens * 12 * 32 * 64 + 3 * weights_alone(found)
    assert 3 * found.forward < 0.95 * one_document, "less than windows that are looked at whole"
