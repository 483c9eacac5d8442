"""A tiny model and a tiny task that every test of the loop shares."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from modelwright.base.run import Run
from modelwright.model.config import ModelConfig
from modelwright.model.init import initialize
from modelwright.model.transformer import Transformer
from modelwright.training.batches import Windows
from modelwright.training.loop import LoopConfig, Trained, train


class Tokens:
    """A token stream in memory: documents of unequal length, each ended by token 0."""

    def __init__(self, seed: int = 0, documents: int = 60, vocabulary: int = 40) -> None:
        random = np.random.default_rng(seed)
        parts = [
            np.append(random.integers(1, vocabulary, random.integers(3, 20)), 0) for _ in range(documents)
        ]
        self.ids = np.concatenate(parts)

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, start: int, length: int) -> np.ndarray:
        return self.ids[start : start + length]


def make_model(seed: int = 1, **changes: int) -> Transformer:
    sizes = {
        "vocab_size": 40, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
    } | changes  # fmt: skip
    model = Transformer(ModelConfig(**sizes))
    initialize(model, seed)
    return model


def make_windows(rows: int = 2, length: int = 16, seed: int = 3) -> Windows:
    return Windows(Tokens(), rows, length, seed, end_of_text=0)


def train_in(
    folder: Path,
    model: Transformer,
    objective,
    batches,
    steps: int,
    config: LoopConfig,
    micro_batches: int = 0,
) -> Trained:
    """Train without held-out data, and leave no file open."""
    run = make_run(folder, config)
    try:
        plan = config.plan(micro_batches or steps * config.accumulation)
        return train(model, objective, batches, plan, config, run, validate=dict)
    finally:
        run.close()


def make_run(folder: Path, config: LoopConfig | None = None) -> Run:
    return Run(folder, "pretrain", "base", config or LoopConfig(), seed=5)
