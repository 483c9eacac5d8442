"""Training speed on one NVIDIA GPU: our loop beside a plain compiled one, and how near both come to the peak.

Every case is a process of its own and runs `training.loop.train`, the loop that all stages run, with
averaging, guard, metrics and log, on random tokens, so that nothing is fetched. Speed is that of the median
step after the warm-up; compilation is not in it and is given apart. Before any of it the losses of a few
steps are held against those of the CPU in fp32.

MFU = tokens/s x FLOPs per token / peak. FLOPs per token are those of model/flops.py: 6 per weight of a
matrix, and 12 x layers x heads x head size x context for attention, causal halving not taken (PaLM, arXiv
2204.02311). Documents that share a row do not see one another: there the context counted is that of the
mean token's document, so attention that is skipped is not claimed as work. The peak is the GPU's dense bf16
figure (planning/machines.yaml); a GPU that is not in the table gets no MFU.

The peer (plain_loop.py) trains the same Llama shape in a loop as nanoGPT has it, compiled as a whole: bf16
autocast, FlashAttention through SDPA, fused AdamW, all logits at once. Its blocks of steps alternate with
ours.

    make bench NAME=train_gpu              # at most 8 minutes, on a machine with one GPU
    python benchmarks/train_gpu.py --tiny  # everything but the speed, on any machine, in a minute
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modelwright.base.metrics import read_metrics
from modelwright.base.run import Run
from modelwright.base.schema import Batch
from modelwright.model.config import ModelConfig
from modelwright.model.flops import training_flops_per_token
from modelwright.model.init import initialize
from modelwright.model.transformer import Transformer
from modelwright.objectives.next_token import NextToken
from modelwright.planning.machines import by_device_name
from modelwright.training.batches import Example, Packed
from modelwright.training.compute import ComputeConfig, compile_blocks, resolve
from modelwright.training.loop import LoopConfig, train
from modelwright.training.optimizer import OptimizerConfig
from plain_loop import PlainLlama, PlainLoop
from record import Row, compare, publish

WARM_UP, STEPS = 6, 12
LIMIT = 480.0
"""Seconds for everything: a case that could pass it is left out, and said to be."""
RESERVE = 75.0
"""What a case may take."""
FP32_TOLERANCE, BF16_TOLERANCE = 1e-3, 2e-2
"""Relative difference of losses from the CPU's in fp32: the order of sums, and bf16's 8 bits."""


@dataclass(frozen=True, slots=True)
class Case:
    """A network, its data, and how it is cut into steps."""

    name: str
    shape: ModelConfig
    context: int
    rows: int
    accumulation: int
    documents: bool = False
    """Packed conversations, half of their tokens supervised; else windows without an end of text."""
    bar: float | None = None
    """MFU that issue 4 asks for on an H200."""

    @property
    def step_tokens(self) -> int:
        """Tokens of one update, padding included."""
        return self.rows * self.context * self.accumulation


def shape(layers: int, width: int, heads: int, kv_heads: int, inner: int, vocabulary: int) -> ModelConfig:
    """A Llama-like network, as GPT-2's and the 1B model's sizes are run."""
    return ModelConfig(
        architecture="llama",
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=width // heads,
    )


QWEN3 = shape(28, 1024, 16, 8, 3072, 151_936).model_copy(update={"architecture": "qwen3", "head_dim": 128})
CASES = {
    case.name: case
    for case in (
        Case("GPT-2 small", shape(12, 768, 12, 12, 2048, 50_304), 1024, 32, 16, bar=0.48),
        Case("SFT 0.6B, 16k", QWEN3, 16_384, 1, 4, documents=True, bar=0.45),
        Case("1B", shape(20, 2048, 16, 8, 5632, 32_000), 2048, 8, 4, bar=0.50),
        Case("SFT 0.6B, 8k", QWEN3, 8192, 2, 4, documents=True),
    )
}
PEER = "nanoGPT-style"
SMALL = Case("check", shape(2, 128, 4, 2, 256, 512), 256, 2, 2, documents=True)


def tiny(case: Case) -> Case:
    """The same kind of case, small enough for a CPU in a test."""
    small = shape(2, 64, 2, 1, 128, 128).model_copy(update={"architecture": case.shape.architecture})
    return replace(case, shape=small, context=128, rows=1, accumulation=2)


class RandomWindows:
    """Rows of random ids, one document each: attention is plainly causal."""

    def __init__(self, case: Case) -> None:
        self._case = case

    def __getitem__(self, index: int) -> Batch:
        size = (self._case.rows, self._case.context + 1)
        ids = torch.from_numpy(np.random.default_rng(index).integers(0, self._case.shape.vocab_size, size))
        return Batch(ids=ids[:, :-1].contiguous(), targets=ids[:, 1:].contiguous())


class Conversations:
    """Random conversations of 200 to 2,000 tokens (less in short rows), packed as fine-tuning packs them."""

    def __init__(self, case: Case, micro_batches: int) -> None:
        random = np.random.default_rng(0)
        longest = min(2000, case.context // 2)
        needed = int(1.1 * micro_batches * case.rows * case.context) + 20 * case.context
        examples: list[Example] = []
        while needed > 0:
            length = int(random.integers(longest // 10, longest + 1))
            ids = random.integers(0, case.shape.vocab_size, length).tolist()
            examples.append(Example(ids, [place > length // 2 for place in range(length)]))
            needed -= length
        self._packed = Packed(examples, case.rows, case.context, seed=0, padding=0)

    def __getitem__(self, index: int) -> Batch:
        return self._packed[index % (len(self._packed) - 1)]


def batches_of(case: Case, steps: int) -> RandomWindows | Conversations:
    """The case's data for so many steps."""
    return Conversations(case, steps * case.accumulation) if case.documents else RandomWindows(case)


def mean_context(batches: RandomWindows | Conversations, case: Case) -> float:
    """Length of the document that the mean token stands in."""
    if not case.documents:
        return case.context
    lengths = [
        torch.unique_consecutive(row, return_counts=True)[1]
        for index in range(4)
        for row in documents_of(batches[index])
    ]
    counts = torch.cat(lengths).double()
    return float((counts**2).sum() / counts.sum())


def documents_of(batch: Batch) -> Tensor:
    """(B, T) numbers of documents."""
    assert batch.segments is not None, "packed rows know their documents"
    return batch.segments


def train_ours(case: Case, compute: ComputeConfig, steps: int, folder: Path) -> tuple[Run, Transformer]:
    """The stages' own way: the loop, compiled blocks, AdamW, fp32 weights."""
    device = resolve(compute)
    model = Transformer(case.shape, device.dtype)
    initialize(model, 0)
    model.to(device.name)
    config = LoopConfig(
        optimizer=OptimizerConfig(kind="adamw", learning_rate=3e-4),
        accumulation=case.accumulation,
        validate_every=10**9,
        checkpoint_every=10**9,
    )
    run = Run(folder, "pretrain", "base", config, seed=0)
    compile_blocks(model.model.layers, compute, device, 0.0, run.log)
    plan = config.plan(steps * case.accumulation)
    batches = batches_of(case, steps)
    train(model, NextToken(), batches, plan, config, run, validate=dict, matmul_dtype=device.dtype)
    run.close()
    return run, model


def run_ours(case: Case, compute: ComputeConfig, steps: int = WARM_UP + STEPS) -> dict[str, Any]:
    """Speed, memory and losses of a case."""
    with tempfile.TemporaryDirectory() as folder:
        run, model = train_ours(case, compute, steps, Path(folder))
        clock = [line["seconds"] for line in read_metrics(run.dir / "timing.jsonl")]
        losses = [line["loss"] for line in read_metrics(run.dir / "metrics.jsonl")]
    context = mean_context(batches_of(case, steps), case)
    parameters = model.num_parameters()
    return {
        "parameters": parameters,
        "flops_per_token": training_flops_per_token(case.shape, round(context)),
        "mean_context": context,
        "losses": losses,
        **timed(clock, case),
    }


def timed(clock: list[float], case: Case) -> dict[str, Any]:
    """Tokens/s of each step after the warm-up, what came before it, and the most memory that tensors took."""
    warm = min(WARM_UP, len(clock) // 2)
    steps = np.diff(np.array(clock[warm - 1 :]))
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    return {
        "tokens_per_second": (case.step_tokens / steps).tolist(),
        "warm_up_seconds": clock[warm - 1],
        "peak_bytes": peak,
    }


def run_peer(case: Case, compute: ComputeConfig, steps: int = WARM_UP + STEPS) -> dict[str, Any]:
    """The plain loop at its best: compiled whole, bf16 autocast, the fused optimizer, no averaging."""
    device = resolve(compute)
    cuda = device.name == "cuda"
    model = PlainLlama.of(case.shape, case.context).to(device.name)
    loop = PlainLoop(model, rate=3e-4, decay=0.1, compiled=cuda)
    batches, clock, losses = RandomWindows(case), [0.0], list[float]()

    def on_device(tensor: Tensor) -> Tensor:
        return tensor.pin_memory().to(device.name, non_blocking=True) if cuda else tensor

    start = time.perf_counter()
    for number in range(steps):
        numbers = range(number * case.accumulation, (number + 1) * case.accumulation)
        micro = [batches[index] for index in numbers]
        losses.append(loop.step([(on_device(batch.ids), on_device(batch.targets)) for batch in micro]))
        clock.append(time.perf_counter() - start)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "losses": losses,
        **timed(clock[1:], case),
    }


def losses_agree(device: str) -> dict[str, Any]:
    """Losses of four steps here against those of the CPU in fp32. Raises SystemExit where they part."""
    found: dict[str, Any] = {}
    torch.backends.cuda.matmul.allow_tf32 = False
    reference = run_ours(SMALL, ComputeConfig(device="cpu", dtype="float32", compile="never"), 4)["losses"]
    compile = "always" if device == "cuda" else "never"
    for dtype, tolerance in (("float32", FP32_TOLERANCE), ("bfloat16", BF16_TOLERANCE)):
        compute = ComputeConfig.model_validate({"device": device, "dtype": dtype, "compile": compile})
        losses = run_ours(SMALL, compute, 4)["losses"]
        off = max(abs(a / b - 1) for a, b in zip(losses, reference, strict=True))
        found[dtype] = {"largest_difference": off, "tolerance": tolerance}
        if not off <= tolerance:
            raise SystemExit(f"{dtype} on {device}: losses {losses} against {reference} on the CPU")
    return found


def summary(case: Case, found: dict[str, Any], peak: float | None) -> dict[str, Any]:
    """What the result file says of a case."""
    speed = statistics.median(found["tokens_per_second"])
    flops = found.get("flops_per_token", 0.0)
    return {
        "case": case.name,
        "parameters": found["parameters"],
        "context": case.context,
        "mean_context": found.get("mean_context", case.context),
        "step_tokens": case.step_tokens,
        "tokens_per_second": speed,
        "spread": [min(found["tokens_per_second"]), max(found["tokens_per_second"])],
        "flops_per_token": flops,
        "mfu": speed * flops / peak if peak and flops else None,
        "bar_mfu": case.bar,
        "peak_gib": found["peak_bytes"] / 2**30 if found["peak_bytes"] else None,
        "warm_up_seconds": found["warm_up_seconds"],
    }


def in_process(case: str, peer: bool) -> dict[str, Any]:
    """Run a case by itself: its memory is its own, and what it compiled does not crowd the next one."""
    command = [sys.executable, __file__, "--case", case, *(["--peer"] if peer else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, timeout=LIMIT)
    if done.returncode:
        raise SystemExit(f"{case}{', peer' if peer else ''}: ended with status {done.returncode}; see above")
    return json.loads(done.stdout.splitlines()[-1])


def peak_of(name: str) -> float | None:
    """Dense bf16 FLOP/s of a GPU by its name, as the planner's table has it."""
    known = by_device_name(name)
    return known.rate("bfloat16") if known else None


def main() -> None:
    """All cases on this machine's GPU."""
    if not torch.cuda.is_available():
        raise SystemExit("no NVIDIA GPU is at hand: nothing was measured. --tiny runs everything on a CPU.")
    start, name = time.perf_counter(), torch.cuda.get_device_name()
    peak = peak_of(name)
    print(f"{name}; bf16 peak {peak / 1e12:.0f} TFLOP/s" if peak else f"{name}: no peak known, so no MFU")
    checks = losses_agree("cuda")
    torch.cuda.empty_cache()
    print(f"losses agree with the CPU's: {checks}")
    cases, rows = [], list[Row]()
    small = CASES["GPT-2 small"]
    blocks: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    for peer in (False, True, True, False):
        blocks[peer].append(in_process(small.name, peer))
    joined = {peer: joined_blocks(found) for peer, found in blocks.items()}
    cases.append(summary(small, joined[False], peak))
    cases.append(summary(replace(small, name=PEER, bar=None), joined[True], peak))
    speeds = (joined[False]["tokens_per_second"], joined[True]["tokens_per_second"])
    rows.append(compare(f"{small.name}, T {small.context}", "tokens/s", *speeds, PEER, None))
    for case in list(CASES.values())[1:]:
        if time.perf_counter() - start > LIMIT - RESERVE:
            print(f"{case.name}: left out, {LIMIT:.0f} s are nearly over")
            continue
        cases.append(summary(case, in_process(case.name, False), peak))
        print(json.dumps(cases[-1]))
    found = {"peak_flops": peak, "cases": cases, "checks": checks, "seconds": time.perf_counter() - start}
    publish("train_gpu", rows, ("torch",), " ".join((__doc__ or "").split()), found)


def joined_blocks(blocks: list[dict[str, Any]]) -> dict[str, Any]:
    """One case from its blocks of steps."""
    speeds = [speed for block in blocks for speed in block["tokens_per_second"]]
    return {**blocks[0], "tokens_per_second": speeds}


def run_tiny() -> list[dict[str, Any]]:
    """Every path at a toy size on this machine's CPU; the figures mean nothing."""
    compute = ComputeConfig(device="cpu", dtype="bfloat16", compile="never")
    print("tiny, on a CPU: the figures mean nothing", file=sys.stderr)
    checks = losses_agree("cpu")
    print(f"losses: {checks}", file=sys.stderr)
    small = [tiny(case) for case in CASES.values()]
    found = [summary(case, run_ours(case, compute, 3), None) for case in small]
    return [*found, summary(replace(small[0], name=PEER), run_peer(small[0], compute, 3), None)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Training speed on one NVIDIA GPU.")
    parser.add_argument("--tiny", action="store_true", help="toy sizes, on any machine")
    parser.add_argument("--case", choices=list(CASES), help="one case, as a line of JSON")
    parser.add_argument("--peer", action="store_true", help="that case in the plain loop")
    chosen = parser.parse_args()
    if chosen.tiny:
        print(json.dumps(run_tiny(), indent=2))
    elif chosen.case:
        always = ComputeConfig(device="cuda", dtype="bfloat16", compile="always")
        print(json.dumps((run_peer if chosen.peer else run_ours)(CASES[chosen.case], always)))
    else:
        main()
