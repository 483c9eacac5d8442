"""Training speed on a CPU: our loop against transformers' Trainer.

The same Llama configuration (random weights), the same batch size, AdamW in both, bf16 in both. Each side
is a process of its own; they take turns step by step. The Trainer runs as it comes, eagerly and
compiled; compiled with its eager attention, which is its own best setting here; and both of these with
the memory setting that ours makes for itself (base/device.py) given to it from outside. Compilation and
the first steps are not timed. Ours also keeps documents apart by a mask; the Trainer does not.

    make bench NAME=train_cpu
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from modelwright.base.device import keep_freed_memory
from modelwright.base.run import Run
from modelwright.base.schema import Batch
from modelwright.model.config import ModelChoice
from modelwright.model.init import initialize
from modelwright.model.transformer import Transformer
from modelwright.objectives.next_token import NextToken
from modelwright.training.batches import Windows
from modelwright.training.compute import ComputeConfig, compile_blocks, resolve
from modelwright.training.loop import LoopConfig, train
from modelwright.training.optimizer import OptimizerConfig
from record import Pace, compare, interleave, publish

ROUNDS, WARM_UP = 60, 4
VOCABULARY, CONTEXT, ROWS, DEPTH = 4096, 256, 16, 4
STEPS = ROUNDS + WARM_UP + 2
SHAPE = ModelChoice(depth=DEPTH, architecture="llama").derive(VOCABULARY)
BAR = 1.2


class Tokens:
    """Random documents of about 80 tokens, each ended by token 0."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self.ids = random.integers(1, VOCABULARY, ROWS * CONTEXT * STEPS)
        self.ids[random.random(len(self.ids)) < 1 / 80] = 0

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, start: int, length: int) -> np.ndarray:
        return self.ids[start : start + length]


class Paced:
    """Batches that are asked for at the start of each step: the end of the one before."""

    def __init__(self) -> None:
        self._batches = Windows(Tokens(), ROWS, CONTEXT, seed=0, end_of_text=0)
        self._pace = Pace(WARM_UP)

    def __getitem__(self, index: int) -> Batch:
        if index > 0:
            self._pace()
        return self._batches[index]


def run_ours(optimizer: Literal["adamw", "muon"], compiled: bool) -> None:
    """The loop that all training stages run, with all that belongs to a step: averaging, metrics, log."""
    config = LoopConfig(
        optimizer=OptimizerConfig(kind=optimizer), validate_every=10**6, checkpoint_every=10**6
    )
    compute = ComputeConfig(dtype="bfloat16", compile="always" if compiled else "never")
    device = resolve(compute)
    model = Transformer(SHAPE, device.dtype)
    initialize(model, 0)
    compile_blocks(model.model.layers, compute, device, 0.0, lambda _: None)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), "pretrain", "base", config, seed=0)
        plan = config.plan(STEPS)
        train(model, NextToken(), Paced(), plan, config, run, validate=dict, matmul_dtype=device.dtype)


class Turns(TrainerCallback):
    """Ends a turn at the end of a step."""

    def __init__(self) -> None:
        self._pace = Pace(WARM_UP)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._pace()


def run_trainer(compiled: bool, keep_memory: bool, attention: str = "sdpa") -> None:
    """transformers' Trainer with bf16 and its fused AdamW."""
    if keep_memory:
        keep_freed_memory()
    shape = SHAPE.model_dump(exclude={"architecture"})
    config = LlamaConfig(**shape, use_cache=False)
    config._attn_implementation = attention  # what transformers itself sets before it makes a model
    model = LlamaForCausalLM(config)
    ids = Tokens().ids.reshape(-1, CONTEXT)
    rows = [{"input_ids": torch.from_numpy(row), "labels": torch.from_numpy(row)} for row in ids]
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
        Trainer(model, arguments, train_dataset=rows, callbacks=[Turns()]).train()


WORKERS = {
    "ours": lambda: run_ours("adamw", compiled=True),
    "ours, eager": lambda: run_ours("adamw", compiled=False),
    "ours with Muon": lambda: run_ours("muon", compiled=True),
    "Trainer, eager": lambda: run_trainer(compiled=False, keep_memory=False),
    "Trainer, compiled": lambda: run_trainer(compiled=True, keep_memory=False),
    "Trainer, compiled, keeping freed memory": lambda: run_trainer(compiled=True, keep_memory=True),
    "Trainer, compiled, eager attention": lambda: run_trainer(True, False, "eager"),
    "Trainer, compiled, eager attention, keeping freed memory": lambda: run_trainer(True, True, "eager"),
}


def main() -> None:
    """Run all, publish."""
    commands = {name: [sys.executable, __file__, name] for name in WORKERS}
    seconds = interleave(commands, ROUNDS)
    rate = {name: [ROWS * CONTEXT / step for step in steps] for name, steps in seconds.items()}
    rows = []
    millions = Transformer(SHAPE).num_parameters() / 1e6
    for mine in (name for name in WORKERS if name.startswith("ours")):
        for peer in (name for name in WORKERS if name.startswith("Trainer")):
            label = f"{millions:.1f}M Llama, {ROWS} x {CONTEXT} tokens, {mine}"
            bar = BAR if mine == "ours" else None
            rows.append(compare(label, "tokens/s", rate[mine], rate[peer], peer, bar))
    notes = f"bf16, {torch.get_num_threads()} threads; {__doc__}"
    publish("train_cpu", rows, ("torch", "transformers", "accelerate"), " ".join(notes.split()))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        WORKERS[sys.argv[1]]()
    else:
        main()
