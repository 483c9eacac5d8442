"""Training speed on a CPU: our loop against transformers' Trainer.

The same Llama configuration (random weights), the same tokens, the same batch, AdamW in both, bf16 in
both. The peer runs eagerly and compiled, and its better figure counts. Compilation and the first
steps are not timed on either side. Ours also keeps documents apart by a mask; the peer does not.

    make bench NAME=train_cpu
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from modelwright.base.metrics import read_metrics
from modelwright.base.run import Run
from modelwright.model.config import ModelChoice, ModelConfig
from modelwright.model.init import initialize
from modelwright.model.transformer import Transformer
from modelwright.objectives.next_token import NextToken
from modelwright.training.batches import Windows
from modelwright.training.compute import ComputeConfig, compile_blocks, resolve
from modelwright.training.loop import LoopConfig, train
from modelwright.training.optimizer import OptimizerConfig
from record import compare, interleave, publish

STEPS, WARM_UP, RUNS = 16, 4, 4
VOCABULARY, CONTEXT, ROWS = 4096, 256, 16
BAR = 1.2


class Tokens:
    """Random documents of about 80 tokens, each ended by token 0."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self.ids = random.integers(1, VOCABULARY, 400_000)
        self.ids[random.random(len(self.ids)) < 1 / 80] = 0

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, start: int, length: int) -> np.ndarray:
        return self.ids[start : start + length]


def rate(times: list[float]) -> float:
    """Tokens/s from the times at which steps ended: the median step after the warm-up."""
    steps = np.diff(times)[WARM_UP:]
    return ROWS * CONTEXT / statistics.median(steps.tolist())


def measure_ours(shape: ModelConfig, optimizer: str) -> float:
    """Tokens/s of the loop that all training stages run."""
    config = LoopConfig(
        optimizer=OptimizerConfig(kind=optimizer), validate_every=10**6, checkpoint_every=10**6
    )
    compute = ComputeConfig(compile="always")
    device = resolve(compute)
    model = Transformer(shape, device.dtype)
    initialize(model, 0)
    compile_blocks(model.model.layers, compute, device, 0.0, lambda _: None)
    batches = Windows(Tokens(), ROWS, CONTEXT, seed=0, end_of_text=0)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), "pretrain", "base", config, seed=0)
        steps = STEPS + 1  # the last one also writes the checkpoint
        train(model, NextToken(), batches, steps, config, run, validate=dict, matmul_dtype=device.dtype)
        run.close()
        return rate([line["seconds"] for line in read_metrics(Path(folder) / "timing.jsonl")][:STEPS])


class StepTimes(TrainerCallback):
    """When each step of the Trainer ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.times.append(time.perf_counter())


def measure_trainer(shape: ModelConfig, compiled: bool) -> float:
    """Tokens/s of transformers' Trainer with bf16 and its fused AdamW."""
    config = LlamaConfig(**shape.model_dump(exclude={"architecture"}), use_cache=False)
    model = LlamaForCausalLM(config)
    ids = Tokens().ids[: ROWS * CONTEXT * STEPS].reshape(-1, CONTEXT)
    rows = [{"input_ids": torch.from_numpy(row), "labels": torch.from_numpy(row)} for row in ids]
    times = StepTimes()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=STEPS,
            per_device_train_batch_size=ROWS,
            learning_rate=1e-3,
            optim="adamw_torch_fused",
            bf16=True,
            use_cpu=True,
            torch_compile=compiled,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        Trainer(model, arguments, train_dataset=rows, callbacks=[times]).train()
    return rate(times.times)


def main() -> None:
    """Run all, publish."""
    rows = []
    for depth in (4,):
        shape = ModelChoice(depth=depth, architecture="llama").derive(VOCABULARY)
        millions = sum(p.numel() for p in Transformer(shape).parameters()) / 1e6
        runners: dict[str, Callable[[], float]] = {
            "ours": lambda s=shape: measure_ours(s, "adamw"),
            "ours with Muon": lambda s=shape: measure_ours(s, "muon"),
            "Trainer, eager": lambda s=shape: measure_trainer(s, compiled=False),
            "Trainer, compiled": lambda s=shape: measure_trainer(s, compiled=True),
        }
        found = interleave(runners, RUNS)
        peer = max(("Trainer, eager", "Trainer, compiled"), key=lambda name: statistics.median(found[name]))
        label = f"{millions:.1f}M Llama, {ROWS} x {CONTEXT} tokens"
        rows.append(compare(label, "tokens/s", found["ours"], found[peer], peer, BAR))
        rows.append(
            compare(f"{label}, ours with Muon", "tokens/s", found["ours with Muon"], found[peer], peer, None)
        )
    notes = f"bf16, {torch.get_num_threads()} threads, median of {STEPS - WARM_UP - 1} steps a run; {__doc__}"
    publish("train_cpu", rows, ("torch", "transformers", "accelerate"), " ".join(notes.split()))


if __name__ == "__main__":
    main()
