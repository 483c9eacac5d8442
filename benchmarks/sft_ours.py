"""Our side of the benchmarks of fine-tuning: the loop that all stages run, on packed rows."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

import torch

from gpu_cases import Conversations, documents_of
from modelwright.base.run import Run
from modelwright.base.schema import Batch
from modelwright.compression.nf4 import nf4_linear
from modelwright.formats.frozen import load_frozen
from modelwright.formats.huggingface import load_model
from modelwright.model.adaptation import AdapterConfig, adapt
from modelwright.model.transformer import Transformer
from modelwright.objectives.next_token import NextToken
from modelwright.stages.training import make_fast
from modelwright.training.averages import AveragesConfig
from modelwright.training.batches import Packed
from modelwright.training.compute import ComputeConfig, resolve
from modelwright.training.loop import LoopConfig, train
from modelwright.training.optimizer import OptimizerConfig
from modelwright.training.recompute import recompute
from modelwright.training.schedule import ScheduleConfig
from record import Pace

Method = Literal["full", "lora", "qlora"]
RATE = {"full": 1e-4, "lora": 3e-4, "qlora": 3e-4}
"""Both sides' learning rates: constant, without a warm-up."""


class Counted:
    """Rows in turns: the end of a step is where the next one asks for its first, and tells how many tokens of
    conversations a second were read."""

    def __init__(self, batches: Packed | Conversations, pace: Pace, accumulation: int = 1) -> None:
        self._batches, self._pace, self._accumulation = batches, pace, accumulation
        self._start, self._tokens = time.perf_counter(), 0

    def __getitem__(self, index: int) -> Batch:
        if index % self._accumulation == 0:
            if index > 0:
                self._pace({"rate": self._tokens / (time.perf_counter() - self._start)})
            self._start, self._tokens = time.perf_counter(), 0
        batch = self._batches[index]
        self._tokens += int((documents_of(batch) >= 0).sum())
        return batch


def load(folder: Path, method: Method, rank: int, seed: int) -> Transformer:
    """A model as `stages/adapting.py` makes it ready, to be computed in bf16."""
    if method == "full":
        model = load_model(folder)
        model.compute_dtype = torch.bfloat16
        return model
    model = load_frozen(folder, torch.bfloat16, nf4_linear if method == "qlora" else None)
    adapt(model, AdapterConfig(rank=rank, alpha=2 * rank), seed)
    return model


def train_ours(
    model: Transformer,
    batches: Counted | Packed,
    count: int,
    method: Method,
    seed: int,
    folder: Path,
    *,
    accumulation: int = 1,
    checkpointing: Literal["none", "full"] = "none",
) -> None:
    """Train on `count` micro-batches; no average of the weights is kept, which the peer has not either."""
    config = LoopConfig(
        optimizer=OptimizerConfig(kind="adamw", learning_rate=RATE[method], betas=(0.9, 0.95)),
        schedule=ScheduleConfig(kind="constant", warmup_fraction=0.0),
        averages=AveragesConfig(half_lives=()),
        accumulation=accumulation,
        validate_every=10**9,
        checkpoint_every=10**9,
    )
    compute = ComputeConfig(device="cpu", dtype="bfloat16")
    device = resolve(compute)
    if checkpointing != "none":
        recompute(model.model.layers, checkpointing)
    run = Run(folder, "finetune", "sft", config, seed)
    make_fast(model, compute, device, run.log, flops=0.0, accumulation=accumulation, alone=True)
    plan = config.plan(count)
    train(model, NextToken(), batches, plan, config, run, validate=dict, matmul_dtype=device.dtype)
    run.close()
