"""Training speed on one NVIDIA GPU: our loop beside a plain compiled one, and how near both come to the peak.

Every case is a process of its own and runs `training.loop.train`, the loop that all stages run, with
averaging, guard, metrics and log, on random tokens, so that nothing is fetched. Speed is that of the median
step after the warm-up; compilation is not in it and is given apart. Before any of it the losses of a few
steps are held against those of the CPU in fp32. What fails, fails alone: its line says why, and the rest
runs. The most important cases come first; what the time no longer allows is left out, and said to be.

Everything is kept for the backward pass. Only a case that does not fit into the GPU's memory is tried again
with fewer rows and more micro-batches a step, and at last with activation checkpointing (selective, then
full); its line says which. The peer is given fewer rows alike.

MFU = tokens/s x FLOPs per token / peak. FLOPs per token are those of model/flops.py: 6 per weight of a
matrix, and 12 x layers x heads x head size x context for attention, causal halving not taken (PaLM, arXiv
2204.02311). What is skipped is not claimed as work: documents that share a row do not see one another, so
there the context counted is that of the mean token's document, and tokens without a target do not meet the
head. The peak is the GPU's dense bf16 figure (planning/machines.yaml); a GPU that is not in the table gets
no MFU. What is asked of a case on an H200 stands beside what was measured.

The peer (plain_loop.py) trains the same Llama shape in a loop as nanoGPT has it, compiled as a whole: bf16
autocast, FlashAttention through SDPA, fused AdamW, all logits at once. Where time is left, a second block of
steps of each is run, in the other order.

Each line says whether its blocks were compiled. Where no compiler is found (Triton, a C compiler, python's
headers) all runs eagerly, on both sides, and the result is published as train_gpu_eager.

    make bench NAME=train_gpu              # at most 8 minutes, on a machine with one GPU
    python benchmarks/train_gpu.py --tiny  # everything but the speed, on any machine, in a minute
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpu_cases import (
    CASES,
    CHECK,
    PEER,
    SMALL,
    Case,
    Ended,
    RandomWindows,
    UpTo,
    batches_of,
    published_as,
    tiny,
    ways,
)
from modelwright.base.metrics import read_metrics
from modelwright.base.room import is_out_of_memory
from modelwright.base.run import Run
from modelwright.model.flops import mean_token
from modelwright.model.init import initialize
from modelwright.model.transformer import Transformer
from modelwright.objectives.next_token import NextToken
from modelwright.planning.machines import by_device_name
from modelwright.stages.training import make_fast
from modelwright.training.compute import EIGHT_BITS, ComputeConfig, resolve
from modelwright.training.loop import LoopConfig, train
from modelwright.training.optimizer import OptimizerConfig
from modelwright.training.recompute import recompute
from plain_loop import PlainLlama, PlainLoop
from record import Row, answer_in_time, compare, failed, publish

WARM_UP, STEPS = 6, 12
LIMIT = 470.0
"""Seconds for everything."""
RESERVE = 60.0
"""What a case takes about, compilation included: with less left none is begun."""
LONGEST = 170.0
"""What still runs after that is ended."""
LONGEST_CHECK = 260.0
"""The check compiles everything in three formats, and nothing is there yet that it could take over."""
FP32_TOLERANCE, BF16_TOLERANCE, FP8_TOLERANCE = 1e-3, 2e-2, 4e-2
"""Relative difference of losses from the CPU's in fp32: the order of sums, and bf16's 8 bits, fp8's 4."""
FP8 = "fp8"


def train_ours(case: Case, compute: ComputeConfig, steps: int, folder: Path) -> tuple[Run, Transformer]:
    """The stages' own way: the loop, compiled blocks, AdamW, fp32 weights."""
    device = resolve(compute)
    model = Transformer(case.shape, device.dtype)
    initialize(model, 0)
    model.to(device.name)
    if case.checkpointing != "none":
        recompute(model.model.layers, case.checkpointing)
    config = LoopConfig(
        optimizer=OptimizerConfig(kind="adamw", learning_rate=3e-4),
        accumulation=case.accumulation,
        validate_every=10**9,
        checkpoint_every=10**9,
    )
    run = Run(folder, "pretrain", "base", config, seed=0)
    make_fast(model, compute, device, run.log, flops=0.0, accumulation=case.accumulation, alone=True)
    count = steps * case.accumulation
    batches, plan = UpTo(batches_of(case, steps), count), config.plan(count + 1)
    try:
        train(model, NextToken(), batches, plan, config, run, validate=dict, matmul_dtype=device.dtype)
    except Ended:
        pass
    finally:
        run.close()
    return run, model


def run_in_memory(case: Case, compute: ComputeConfig, steps: int = WARM_UP + STEPS) -> dict[str, Any]:
    """Speed, memory and losses of a case, in the first of its ways that fits."""
    return first_that_fits(case, lambda way: run_ours(way, compute, steps))


def peer_in_memory(case: Case, compute: ComputeConfig, steps: int = WARM_UP + STEPS) -> dict[str, Any]:
    """The same of the plain loop, which computes nothing again."""
    return first_that_fits(case, lambda way: run_peer(way, compute, steps), again=False)


def first_that_fits(
    case: Case, measure: Callable[[Case], dict[str, Any]], *, again: bool = True
) -> dict[str, Any]:
    """What is measured of the first of a case's ways that fits into memory."""
    for way in ways(case, again=again):
        try:
            return {**measure(way), "how": how(way)}
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            print(f"{case.name}: {how(way)} needs too much memory: {error}", file=sys.stderr)
        torch.compiler.reset()  # another number of rows would be compiled for all numbers, which is slower
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
    raise SystemExit(f"{case.name}: does not fit into this GPU's memory in any way")


def how(case: Case) -> str:
    """How a step is cut, for the reader."""
    again = "" if case.checkpointing == "none" else f", {case.checkpointing} activation checkpointing"
    return f"{case.accumulation} x {case.rows} rows of {case.context}{again}"


def run_ours(case: Case, compute: ComputeConfig, steps: int) -> dict[str, Any]:
    """Speed, memory and losses of a case."""
    compute = compute.model_copy(update={"fp8": case.fp8 and compute.device == "cuda"})
    with tempfile.TemporaryDirectory() as folder:
        run, model = train_ours(case, compute, steps, Path(folder))
        clock = [line["seconds"] for line in read_metrics(run.dir / "timing.jsonl")]
        losses = [line["loss"] for line in read_metrics(run.dir / "metrics.jsonl")]
    mean = mean_token(batches_of(case, steps).__getitem__, steps * case.accumulation)
    return {
        "parameters": model.num_parameters(),
        "flops_per_token": mean.training_flops(case.shape),
        "mean_context": mean.context(case.shape.sliding_window),
        "supervised": mean.supervised,
        "losses": losses,
        "compiled": compute.compile == "always" and resolve(compute).compiler,
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
    compiled = cuda and device.compiler
    model = PlainLlama.of(case.shape, case.context).to(device.name)
    loop = PlainLoop(model, rate=3e-4, decay=0.1, compiled=compiled)
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
        "compiled": compiled,
        **timed(clock[1:], case),
    }


def losses_agree(device: str) -> dict[str, Any]:
    """Losses of four steps here against those of the CPU in fp32. Raises SystemExit where they part; of 8
    bits, in which one case alone is trained, that is said in the place of the difference."""
    cpu = ComputeConfig(device="cpu", dtype="float32", compile="never")
    reference = run_ours(SMALL, cpu, 4)["losses"]
    found = {
        "float32": difference(device, "float32", reference, FP32_TOLERANCE),
        "bfloat16": difference(device, "bfloat16", reference, BF16_TOLERANCE),
    }
    if device == "cuda" and torch.cuda.get_device_capability() >= EIGHT_BITS:
        try:
            found[FP8] = difference(device, FP8, reference, FP8_TOLERANCE)
        except (SystemExit, Exception) as error:
            found[FP8] = failed(FP8, f"{type(error).__name__}: {error}")
    return found


def difference(device: str, name: str, reference: list[float], tolerance: float) -> dict[str, Any]:
    """How far losses in a format are from the reference; SystemExit where that is too far."""
    compile, dtype = "always" if device == "cuda" else "never", "bfloat16" if name == FP8 else name
    compute = ComputeConfig.model_validate({"device": device, "dtype": dtype, "compile": compile})
    if device == "cuda":
        torch.compiler.reset()  # a format as if it were the first: torch gives up at a function's eighth
    losses = run_ours(replace(SMALL, fp8=name == FP8), compute, 4)["losses"]
    off = max(abs(a / b - 1) for a, b in zip(losses, reference, strict=True))
    if not off <= tolerance:
        raise SystemExit(f"{name} on {device}: losses {losses} against {reference} on the CPU")
    return {"largest_difference": off, "tolerance": tolerance}


def summary(case: Case, found: dict[str, Any], peak: float | None) -> dict[str, Any]:
    """What the result file says of a case."""
    speed = statistics.median(found["tokens_per_second"])
    flops = found.get("flops_per_token", 0.0)
    return {
        "case": case.name,
        "how": found.get("how", how(case)),
        "compiled": found.get("compiled", False),
        "parameters": found["parameters"],
        "context": case.context,
        "mean_context": found.get("mean_context", case.context),
        "supervised": found.get("supervised", 1.0),
        "step_tokens": case.step_tokens,
        "tokens_per_second": speed,
        "bar_tokens_per_second": case.bar_speed,
        "spread": [min(found["tokens_per_second"]), max(found["tokens_per_second"])],
        "flops_per_token": flops,
        "mfu": speed * flops / peak if peak and flops else None,
        "bar_mfu": case.bar,
        "peak_gib": found["peak_bytes"] / 2**30 if found["peak_bytes"] else None,
        "warm_up_seconds": found["warm_up_seconds"],
    }


def in_process(name: str, peer: bool, seconds: float) -> dict[str, Any]:
    """Run a case, or the check, by itself, in the time that is left: its memory is its own, what it compiled
    does not crowd the next one, and where it fails, the reason is what comes back."""
    command = [sys.executable, __file__, "--case", name, *(["--peer"] if peer else [])]
    label = f"{name}{', peer' if peer else ''}"
    most = LONGEST_CHECK if name == CHECK else LONGEST
    return answer_in_time(command, label, seconds, least=RESERVE, most=most)


def peak_of(name: str) -> float | None:
    """Dense bf16 FLOP/s of a GPU by its name, as the planner's table has it."""
    known = by_device_name(name)
    return known.rate("bfloat16") if known else None


def main() -> None:
    """All cases on this machine's GPU."""
    if not torch.cuda.is_available():
        raise SystemExit("no NVIDIA GPU is at hand: nothing was measured. --tiny runs everything on a CPU.")
    name = torch.cuda.get_device_name()
    peak = peak_of(name)
    print(f"{name}; bf16 peak {peak / 1e12:.0f} TFLOP/s" if peak else f"{name}: no peak known, so no MFU")
    title = published_as("train_gpu")
    found = measure_all(peak)
    publish(title, found.pop("rows"), ("torch",), " ".join((__doc__ or "").split()), found)
    if "failed" in found["checks"]:
        raise SystemExit(
            f"the losses were not shown to be the CPU's ({found['checks']['failed']}): the speeds above prove"
            f" nothing. `python benchmarks/train_gpu.py --case {CHECK}` has no limit, and says where they"
            " part. Where it was only ended: what it compiled is kept, so run the benchmark once more."
        )


def measure_all(peak: float | None) -> dict[str, Any]:
    """Check and cases, each by itself, the most important first, as far as the time goes."""
    start = time.perf_counter()

    def run(name: str, peer: bool = False) -> dict[str, Any]:
        return in_process(name, peer, LIMIT - (time.perf_counter() - start))

    def told(case: Case, found: dict[str, Any]) -> dict[str, Any]:
        line = {"case": case.name, **found} if "failed" in found else summary(case, found, peak)
        if case.fp8 and "failed" in checks.get(FP8, {}):
            line["proves_nothing"] = checks[FP8]["failed"]
        print(json.dumps(line))
        return line

    small, *others = CASES.values()
    plain = replace(small, name=PEER, bar=None, bar_speed=None)
    checks = run(CHECK)
    print(f"losses against the CPU's: {checks}")
    ours, lines = run(small.name), list[dict[str, Any]]()
    lines.append(told(small, ours))
    lines += [told(case, run(case.name)) for case in others[:2]]
    theirs = run(small.name, peer=True)
    lines.append(told(plain, theirs))
    lines += [told(case, run(case.name)) for case in others[2:]]
    rows = list[Row]()
    if "failed" not in {*ours, *theirs}:
        again = run(small.name, peer=True), run(small.name)
        if not any("failed" in block for block in again):
            theirs, ours = joined_blocks([theirs, again[0]]), joined_blocks([ours, again[1]])
        speeds = ours["tokens_per_second"], theirs["tokens_per_second"]
        rows.append(compare(f"{small.name}, T {small.context}", "tokens/s", *speeds, PEER, None))
    seconds = time.perf_counter() - start
    return {"peak_flops": peak, "cases": lines, "checks": checks, "seconds": seconds, "rows": rows}


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
    found = [summary(case, run_in_memory(case, compute, 3), None) for case in small]
    return [*found, summary(replace(small[0], name=PEER), run_peer(small[0], compute, 3), None)]


def run_case(name: str, peer: bool) -> dict[str, Any]:
    """One case, or the check, on the GPU."""
    if name == CHECK:
        return losses_agree("cuda")
    compute = ComputeConfig(device="cuda", dtype="bfloat16", compile="always")
    return (peer_in_memory if peer else run_in_memory)(CASES[name], compute)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Training speed on one NVIDIA GPU.")
    parser.add_argument("--tiny", action="store_true", help="toy sizes, on any machine")
    parser.add_argument("--case", choices=[CHECK, *CASES], help="one case, or the check, as a line of JSON")
    parser.add_argument("--peer", action="store_true", help="that case in the plain loop")
    chosen = parser.parse_args()
    if chosen.tiny:
        print(json.dumps(run_tiny(), indent=2))
    elif chosen.case:
        print(json.dumps(run_case(chosen.case, chosen.peer)))
    else:
        main()
