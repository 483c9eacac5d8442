"""Training speed on a CPU: our loop against transformers' Trainer and a plain loop as nanoGPT has it.

The same Llama shape (random weights), the same batch, AdamW in all, bf16 in all; each side is a process of
its own and they take turns step by step. Ours is measured with Muon as well, its default, which makes more of
each step (benchmarks/time_to_loss.py) and takes longer for it, the more so the fewer tokens a step has. The
Trainer and the plain loop run compiled, with the memory setting that ours makes for itself (base/device.py)
given to them from outside, and with torch's fused attention and one written out, which compiled is the faster
of the two here; the Trainer also eagerly. Compilation and the first steps are not timed. Ours also keeps
documents apart by a mask, averages weights, watches for spikes and writes its metrics; the others do not. A
last side multiplies matrices and nothing else: what the machine gives, beside which our arithmetic per second
stands (6 FLOPs per weight and token and the attention's, model/flops.py; recomputation does not count). Each
case says of which machine it is, and of which versions.

    make bench NAME=train_cpu                     # both sizes
    python benchmarks/train_cpu.py small          # this size; the other's results and other machines' stay
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from modelwright.base.device import keep_freed_memory
from modelwright.base.run import Run, code_revision, machine
from modelwright.base.schema import Batch
from modelwright.kernels import tiles
from modelwright.model.config import ModelChoice, ModelConfig
from modelwright.model.flops import training_flops_per_token
from modelwright.model.init import initialize
from modelwright.model.transformer import Transformer
from modelwright.objectives.next_token import NextToken
from modelwright.training.batches import Windows
from modelwright.training.compute import ComputeConfig, compile_blocks, resolve
from modelwright.training.loop import LoopConfig, train
from modelwright.training.optimizer import OptimizerConfig
from novels import Tokens
from plain_loop import PlainLlama, PlainLoop
from record import Pace, Paced, Row, compare, interleave, publish_cases

WARM_UP = 4
LONG_RUN = 1e17
"""FLOPs: whether ours compiles is decided as for a run of hours."""
TRAINER_BAR, PLAIN_BAR, MATMUL_BAR = 1.5, 1.2, 0.6


@dataclass(frozen=True, slots=True)
class Case:
    """A network and a batch."""

    depth: int
    vocabulary: int
    rows: int
    context: int
    rounds: int
    ours: tuple[str, ...]
    peers: tuple[str, ...]

    @property
    def shape(self) -> ModelConfig:
        return ModelChoice(depth=self.depth, architecture="llama").derive(self.vocabulary)

    @property
    def tokens(self) -> int:
        return self.rows * self.context

    @property
    def steps(self) -> int:
        return self.rounds + WARM_UP + 2


OURS = "ours", "ours, compiled", "ours with Muon"
ALL_PEERS = (
    "Trainer, eager",
    "Trainer, compiled",
    "Trainer, compiled, keeping freed memory",
    "Trainer, compiled, eager attention, keeping freed memory",
    "plain loop, compiled",
    "plain loop, compiled, keeping freed memory",
    "plain loop, compiled, written-out attention, keeping freed memory",
)
BEST_PEERS = ALL_PEERS[2], ALL_PEERS[3], ALL_PEERS[5], ALL_PEERS[6]
CASES = {
    "small": Case(4, 4096, rows=16, context=256, rounds=40, ours=OURS, peers=ALL_PEERS),
    "100M": Case(12, 16_384, rows=4, context=512, rounds=12, ours=(OURS[0], OURS[2]), peers=BEST_PEERS),
}


def random_tokens(case: Case) -> Tokens:
    """Random documents of about 80 tokens, each ended by token 0."""
    random = np.random.default_rng(0)
    ids = random.integers(1, case.vocabulary, case.tokens * case.steps)
    ids[random.random(len(ids)) < 1 / 80] = 0
    return Tokens(ids)


def paced(case: Case) -> Paced[Batch]:
    """The batches of a case, in turns."""
    return Paced(Windows(random_tokens(case), case.rows, case.context, seed=0, end_of_text=0), WARM_UP)


def run_ours(
    case: Case, optimizer: Literal["adamw", "muon"], compiled: Literal["auto", "always"] = "auto"
) -> None:
    """The loop that all training stages run, with all that belongs to a step: averaging, metrics, log."""
    config = LoopConfig(
        optimizer=OptimizerConfig(kind=optimizer), validate_every=10**6, checkpoint_every=10**6
    )
    compute = ComputeConfig(dtype="bfloat16", compile=compiled)
    device = resolve(compute)
    model = Transformer(case.shape, device.dtype)
    initialize(model, 0)
    own = tiles.serves(device.name, device.dtype)
    compile_blocks(model.model.layers, compute, device, LONG_RUN, lambda _: None, own_are_faster=own)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), "pretrain", "base", config, seed=0)
        plan = config.plan(case.steps)
        train(model, NextToken(), paced(case), plan, config, run, validate=dict, matmul_dtype=device.dtype)


def run_plain(case: Case, keep_memory: bool, written_out: bool = False) -> None:
    """The plain loop, compiled, with torch's fused attention or one that the compiler fuses."""
    if keep_memory:
        keep_freed_memory()
    shape, pace = case.shape, Pace(WARM_UP)
    model = PlainLlama.of(shape, case.context, written_out)
    loop = PlainLoop(model, rate=1e-3, decay=0.1, compiled=True)
    ids, random = torch.from_numpy(random_tokens(case).ids), np.random.default_rng(0)
    for _ in range(case.steps):
        starts = random.integers(0, len(ids) - case.context - 1, case.rows)
        windows = torch.stack([ids[start : start + case.context + 1] for start in starts])
        loop.step([(windows[:, :-1].contiguous(), windows[:, 1:].contiguous())])
        pace()


def run_matmul(case: Case) -> None:
    """As much arithmetic as one of our steps does, in square bf16 products of 2048."""
    a, b = torch.randn(2048, 2048).bfloat16(), torch.randn(2048, 2048).bfloat16()
    flops = training_flops_per_token(case.shape, case.context) * case.tokens
    products = max(1, round(flops / (2 * 2048**3)))
    pace = Pace(WARM_UP)
    for _ in range(case.steps):
        for _ in range(products):
            torch.mm(a, b)
        pace()


class Turns(TrainerCallback):
    """Ends a turn at the end of a step."""

    def __init__(self) -> None:
        self._pace = Pace(WARM_UP)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._pace()


def run_trainer(case: Case, compiled: bool, keep_memory: bool, attention: str = "sdpa") -> None:
    """transformers' Trainer with bf16 and its fused AdamW."""
    if keep_memory:
        keep_freed_memory()
    shape = case.shape.model_dump(include=LLAMA_FIELDS)
    config = LlamaConfig(**shape, use_cache=False)
    config._attn_implementation = attention  # what transformers itself sets before it makes a model
    model = LlamaForCausalLM(config)
    ids = random_tokens(case).ids.reshape(-1, case.context)
    rows = [{"input_ids": torch.from_numpy(row), "labels": torch.from_numpy(row)} for row in ids]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=case.steps,
            per_device_train_batch_size=case.rows,
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


LLAMA_FIELDS = {
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "rms_norm_eps",
    "max_position_embeddings",
    "tie_word_embeddings",
}
WORKERS = {
    "ours": lambda case: run_ours(case, "adamw"),
    "ours, compiled": lambda case: run_ours(case, "adamw", "always"),
    "ours with Muon": lambda case: run_ours(case, "muon"),
    "Trainer, eager": lambda case: run_trainer(case, compiled=False, keep_memory=False),
    "Trainer, compiled": lambda case: run_trainer(case, compiled=True, keep_memory=False),
    "Trainer, compiled, keeping freed memory": lambda case: run_trainer(case, True, True),
    "Trainer, compiled, eager attention, keeping freed memory": lambda case: run_trainer(
        case, True, True, "eager"
    ),
    "plain loop, compiled": lambda case: run_plain(case, keep_memory=False),
    "plain loop, compiled, keeping freed memory": lambda case: run_plain(case, keep_memory=True),
    "plain loop, compiled, written-out attention, keeping freed memory": lambda case: run_plain(
        case, keep_memory=True, written_out=True
    ),
    "matrix products": run_matmul,
}


PACKAGES = "torch", "transformers", "accelerate"


def measure(name: str, key: str, case: Case) -> tuple[list[Row], dict[str, Any]]:
    """(all sides of a case, in turns; what stands beside the rows), the rows under `name`."""
    sides = (*case.ours, *case.peers, "matrix products")
    seconds = interleave(
        {side: [sys.executable, __file__, "--side", key, side] for side in sides}, case.rounds
    )
    rate = {side: [case.tokens / step for step in steps] for side, steps in seconds.items()}
    millions = Transformer(case.shape).num_parameters() / 1e6
    per_token = training_flops_per_token(case.shape, case.context) / 1e9
    rows = []
    for mine in case.ours:
        label = f"{name}: {millions:.1f}M Llama, {case.rows} x {case.context} tokens, {mine}"
        for peer in case.peers:
            bar = TRAINER_BAR if peer.startswith("Trainer") else PLAIN_BAR
            judged = bar if mine == "ours" else None
            rows.append(compare(label, "tokens/s", rate[mine], rate[peer], peer, judged))
        ours, peak = ([each * per_token for each in rate[side]] for side in (mine, "matrix products"))
        bar = MATMUL_BAR if mine == "ours" and key == "100M" else None
        rows.append(compare(label, "GFLOP/s", ours, peak, "bf16 products of 2048", bar))
    return rows, {
        "revision": code_revision(),
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "hardware": machine(),
        "versions": {package: version(package) for package in PACKAGES},
        "rounds": case.rounds,
        "tokens_per_second": {side: statistics.median(each) for side, each in rate.items()},
    }


def main(keys: Sequence[str]) -> None:
    """Measure these cases, and publish them with what the result file has of others and of other machines."""
    notes = " ".join(f"bf16, {torch.get_num_threads()} threads; {__doc__}".split())
    publish_cases(
        "train_cpu", keys, CASES, lambda title, key: measure(title, key, CASES[key]), PACKAGES, notes
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        WORKERS[sys.argv[3]](CASES[sys.argv[2]])
    else:
        main(sys.argv[1:] or list(CASES))
