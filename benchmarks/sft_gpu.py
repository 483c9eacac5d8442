"""Fine-tuning on one NVIDIA GPU: a 0.6B shape at 16k tokens, in full and by LoRA, and a 7B shape by QLoRA in
10 GB.

Every case is a process of its own and runs `training.loop.train` on random weights and random conversations,
packed, so that nothing is fetched. Speed is that of the median step after the warm-up (train_gpu.py). QLoRA's
case may take no more than its 10 GB: torch's allocator is held to what they leave beside the CUDA context,
and the figure is all that is used on the GPU, context included. Before any of it, losses beside NF4 weights
are held against those of the CPU in fp32. What fails, fails alone, and what the time no longer allows is left
out.

    make bench NAME=sft_gpu              # at most 8 minutes, on a machine with one GPU
    python benchmarks/sft_gpu.py --tiny  # everything but the speed, on any machine, in seconds
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import train_gpu
from gpu_cases import CASES as TRAINING
from gpu_cases import CHECK, Case, Ended, UpTo, batches_of, published_as, shape, tiny
from modelwright.base.metrics import read_metrics
from modelwright.base.run import Run
from modelwright.compression.nf4 import nf4_linear
from modelwright.objectives.next_token import NextToken
from modelwright.stages.training import make_fast
from modelwright.training.averages import AveragesConfig
from modelwright.training.compute import ComputeConfig, resolve
from modelwright.training.loop import LoopConfig, train
from modelwright.training.optimizer import OptimizerConfig
from modelwright.training.recompute import recompute
from record import answer_in_time, publish
from sft_models import random_adapted

RANK, STEPS = 16, 10
LIMIT, LEAST, MOST = 470.0, 60.0, 200.0
"""Seconds for everything; for a case at the least, and at the most."""
CONTEXT_BYTES = 0.6e9
"""What CUDA itself takes of a GPU's memory, about."""
TOLERANCE = {"float32": 1e-3, "bfloat16": 2e-2}
"""Relative difference of losses from the CPU's in fp32."""
SEVEN_BILLION = shape(32, 4096, 32, 32, 11_008, 32_000).model_copy(update={"tie_word_embeddings": False})


@dataclass(frozen=True, slots=True)
class Tuned:
    """A case, what learns in it, and what is asked of it."""

    case: Case
    adapter: bool
    nf4: bool = False
    bar_speed: float | None = None
    """Tokens a second on an H200: 1.5 times what prime-rl states for an H100 (issue 6)."""
    bar_bytes: float | None = None
    """Of GPU memory, all included."""


SIXTEEN_K = TRAINING["SFT 0.6B, 16k"]
CASES = {
    each.case.name: each
    for each in (
        Tuned(replace(SIXTEEN_K, name="0.6B, 16k, all weights"), adapter=False, bar_speed=1.5 * 25_500),
        Tuned(
            Case("7B, 2k, QLoRA", SEVEN_BILLION, 2048, 1, 1, documents=True, checkpointing="full"),
            adapter=True,
            nf4=True,
            bar_bytes=10e9,
        ),
        Tuned(replace(SIXTEEN_K, name="0.6B, 16k, LoRA"), adapter=True),
    )
}


def run_tuned(
    tuned: Tuned, compute: ComputeConfig, steps: int, drawn_on: str | None = None
) -> dict[str, Any]:
    """Speed, memory and losses of a case."""
    if not tuned.adapter:
        return train_gpu.run_in_memory(tuned.case, compute, steps)
    case, device = tuned.case, resolve(compute)
    if tuned.bar_bytes and device.name == "cuda":
        allowed = (tuned.bar_bytes - CONTEXT_BYTES) / torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, allowed))
    model = random_adapted(
        case.shape, device.dtype, device.name, RANK, nf4_linear if tuned.nf4 else None, drawn_on
    )
    if case.checkpointing != "none":
        recompute(model.model.layers, case.checkpointing)
    config = LoopConfig(
        optimizer=OptimizerConfig(kind="adamw", learning_rate=3e-4),
        averages=AveragesConfig(half_lives=()),
        accumulation=case.accumulation,
        validate_every=10**9,
        checkpoint_every=10**9,
    )
    count = steps * case.accumulation
    batches, plan = UpTo(batches_of(case, steps), count), config.plan(count + 1)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), "finetune", "sft", config, seed=0)
        make_fast(model, compute, device, run.log, flops=0.0, accumulation=case.accumulation, alone=True)
        try:
            train(model, NextToken(), batches, plan, config, run, validate=dict, matmul_dtype=device.dtype)
        except Ended:
            pass
        finally:
            run.close()
        clock = [line["seconds"] for line in read_metrics(run.dir / "timing.jsonl")]
        losses = [line["loss"] for line in read_metrics(run.dir / "metrics.jsonl")]
    found = {"parameters": model.num_parameters(), "losses": losses, **train_gpu.timed(clock, case)}
    return found | {"how": train_gpu.how(case), "compiled": compute.compile == "always" and device.compiler}


def compute_for(tuned: Tuned) -> ComputeConfig:
    """Compiled for speed; not where memory is what counts, whose compiled form nobody has measured."""
    compile_ = "never" if tuned.bar_bytes else "always"
    return ComputeConfig(device="cuda", dtype="bfloat16", compile=compile_)


def used_bytes() -> int | None:
    """All of the GPU's memory that is in use, by whomever."""
    if not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info()
    return total - free


def losses_agree(device: str) -> dict[str, Any]:
    """Losses of four steps beside NF4 weights here against those of the CPU in fp32. Raises SystemExit where
    they part."""
    small = Tuned(tiny(CASES["7B, 2k, QLoRA"].case), adapter=True, nf4=True)

    def losses(where: str, dtype: str) -> list[float]:
        compute = ComputeConfig.model_validate({"device": where, "dtype": dtype, "compile": "never"})
        return run_tuned(small, compute, 4, drawn_on="cpu")["losses"]

    reference, found = losses("cpu", "float32"), dict[str, Any]()
    for dtype, tolerance in TOLERANCE.items():
        off = max(abs(a / b - 1) for a, b in zip(losses(device, dtype), reference, strict=True))
        found[dtype] = {"largest_difference": off, "tolerance": tolerance}
        if not off <= tolerance:
            raise SystemExit(f"{dtype} on {device}: losses are off by {off:.1e} of the CPU's in fp32")
    return found


def summary(tuned: Tuned, found: dict[str, Any]) -> dict[str, Any]:
    """What the result file says of a case."""
    speed, used = statistics.median(found["tokens_per_second"]), found.get("used_bytes")
    return {
        "case": tuned.case.name,
        "how": found["how"],
        "compiled": found["compiled"],
        "parameters": found["parameters"],
        "step_tokens": tuned.case.step_tokens,
        "tokens_per_second": speed,
        "spread": [min(found["tokens_per_second"]), max(found["tokens_per_second"])],
        "bar_tokens_per_second": tuned.bar_speed,
        "peak_gb_of_tensors": found["peak_bytes"] / 1e9 if found["peak_bytes"] else None,
        "used_gb": used / 1e9 if used else None,
        "bar_gb": tuned.bar_bytes / 1e9 if tuned.bar_bytes else None,
        "warm_up_seconds": found["warm_up_seconds"],
    }


def run_case(name: str) -> dict[str, Any]:
    """One case, or the check, on the GPU."""
    if name == CHECK:
        return losses_agree("cuda")
    tuned = CASES[name]
    return {**run_tuned(tuned, compute_for(tuned), STEPS), "used_bytes": used_bytes()}


def in_process(name: str, seconds: float) -> dict[str, Any]:
    """A case by itself, in the time that is left."""
    return answer_in_time([sys.executable, __file__, "--case", name], name, seconds, least=LEAST, most=MOST)


def main() -> None:
    """All cases on this machine's GPU."""
    if not torch.cuda.is_available():
        raise SystemExit("no NVIDIA GPU is at hand: nothing was measured. --tiny runs everything on a CPU.")
    title, start, lines = published_as("sft_gpu"), time.perf_counter(), list[dict[str, Any]]()
    checks = in_process(CHECK, LIMIT)
    for name, tuned in CASES.items():
        found = in_process(name, LIMIT - (time.perf_counter() - start))
        lines.append({"case": name, **found} if "failed" in found else summary(tuned, found))
        print(json.dumps(lines[-1]))
    told = {"checks": checks, "cases": lines, "seconds": time.perf_counter() - start}
    publish(title, [], ("torch",), " ".join((__doc__ or "").split()), told)
    if "failed" in checks:
        raise SystemExit("the losses were not shown to be the CPU's: the speeds above prove nothing")


def run_tiny() -> list[dict[str, Any]]:
    """Every path at a toy size on this machine's CPU; the figures mean nothing."""
    print("tiny, on a CPU: the figures mean nothing", file=sys.stderr)
    print(f"losses: {losses_agree('cpu')}", file=sys.stderr)
    compute = ComputeConfig(device="cpu", dtype="bfloat16", compile="never")
    small = [replace(tuned, case=tiny(tuned.case)) for tuned in CASES.values()]
    return [summary(tuned, run_tuned(tuned, compute, 3)) for tuned in small]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Fine-tuning on one NVIDIA GPU.")
    parser.add_argument("--tiny", action="store_true", help="toy sizes, on any machine")
    parser.add_argument("--case", choices=[CHECK, *CASES], help="one case, or the check, as a line of JSON")
    chosen = parser.parse_args()
    if chosen.tiny:
        print(json.dumps(run_tiny(), indent=2))
    elif chosen.case:
        print(json.dumps(run_case(chosen.case)))
    else:
        main()
