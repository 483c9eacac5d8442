"""Decoding on one NVIDIA GPU: our engine at 1B in bf16, beside the bandwidth's limit and transformers.

One request shows how near decoding comes to what the GPU's memory allows: bytes of the weights and of the
cache that a step must read (inference/measure.py) times tokens per second, over the vendor's bandwidth
(planning/machines.yaml) and over the one that is measured here. 256 requests at once show continuous batching
against transformers in a loop of its own forward passes over as many rows, with a growing cache and with a
static one, compiled; the faster is the peer. Every case is a process of its own; what fails, fails
alone, its line says why, and what the time no longer allows is left out and said to be. Weights are random,
made here, so that nothing is fetched. Before any of it greedy answers of a small model are held against what
the CPU finds in fp32.

    make bench NAME=decode_gpu              # at most 8 minutes, on a machine with one GPU
    python benchmarks/decode_gpu.py --tiny  # everything but the speed, on any machine, in a minute
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from decode_models import model_folder
from decode_peers import Transformers
from modelwright.base.schema import Sampling
from modelwright.formats.huggingface import load_model
from modelwright.inference.engine import Engine
from modelwright.inference.measure import random_prompts, step_bytes, time_phases
from modelwright.model.config import ModelConfig
from modelwright.planning.machines import by_device_name, read_bandwidth
from modelwright.tokenizer.bpe import BPETokenizer
from record import Row, answer_in_time, compare, publish

LIMIT = 470.0
"""Seconds for everything."""
RESERVE = 40.0
"""What a case takes about, compilation included: with less left none is begun."""
LONGEST = 120.0
"""What still runs after that is ended."""
WARM_UP, TURNS = 2, 6
CHECKED = Sampling(max_tokens=24, temperature=0.0)
TOLERANCE = 2e-2
"""Of log-probabilities in nats, fp32: the order of sums."""
ONE, MANY = "batch 1", "batch 256"
PEERS = "transformers", "transformers, compiled"
ONE_BAR, MANY_BAR = 0.6, 10.0
BILLION = ModelConfig(
    architecture="llama",
    vocab_size=32_768,
    hidden_size=2048,
    intermediate_size=5632,
    num_hidden_layers=20,
    num_attention_heads=16,
    num_key_value_heads=4,
    head_dim=128,
    max_position_embeddings=2048,
    rms_norm_eps=1e-5,
)
"""0.98 billion parameters, a tied embedding among them."""
SMALL = BILLION.model_copy(
    update={
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "head_dim": 16,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
)


@dataclass(frozen=True, slots=True)
class Case:
    """Requests that come at once."""

    requests: int
    prompt: int
    tokens: int
    config: ModelConfig = BILLION

    @property
    def context(self) -> int:
        """In the middle of the answer."""
        return self.prompt + self.tokens // 2


CASES = {ONE: Case(1, 128, 257), MANY: Case(256, 128, 129)}


def run_ours(case: Case, device: str, turns: int) -> dict[str, Any]:
    """Tokens per second of the engine in each turn after the warm-up, and what bounds them."""
    folder = model_folder(case.config)
    model = load_model(folder, torch.bfloat16, device)
    engine = Engine(model, BPETokenizer.load(folder), max_slots=case.requests, stop_ids=())
    found = [
        time_phases(engine, random_prompts(engine.vocab_size, case.requests, case.prompt, turn), case.tokens)
        for turn in range(WARM_UP + turns)
    ]
    reads = step_bytes(model, case.requests, case.context)
    return {
        "prefill": [case.requests * case.prompt / turn.prefill for turn in found[WARM_UP:]],
        "decode": [turn.decode_rate for turn in found[WARM_UP:]],
        "warm_up_seconds": sum(turn.prefill + turn.decode for turn in found[:WARM_UP]),
        "runner": engine.runner,
        "step_bytes": reads,
        "measured_bandwidth": read_bandwidth(round(step_bytes(model, 1, 0)), device),
        "parameters": model.num_parameters(),
        "peak_bytes": torch.cuda.max_memory_allocated() if device == "cuda" else None,
    }


def run_peer(case: Case, name: str, device: str, turns: int) -> dict[str, Any]:
    """The same of transformers."""
    compiled = "compiled" in name and device == "cuda"
    side = Transformers(model_folder(case.config), compiled=compiled, device=device)
    vocabulary = case.config.vocab_size
    found = [
        side.time_phases(random_prompts(vocabulary, case.requests, case.prompt, turn), case.tokens)
        for turn in range(WARM_UP + turns)
    ]
    return {
        "prefill": [case.requests * case.prompt / turn.prefill for turn in found[WARM_UP:]],
        "decode": [turn.decode_rate for turn in found[WARM_UP:]],
        "warm_up_seconds": sum(turn.prefill + turn.decode for turn in found[:WARM_UP]),
    }


def tokens_agree(device: str) -> dict[str, float]:
    """Greedy answers of many requests here, scored by the CPU in fp32: nothing it finds much more likely was
    passed over. Raises SystemExit where that is not so."""
    folder = model_folder(SMALL)
    tokenizer = BPETokenizer.load(folder)
    here, reference = (
        Engine(load_model(folder, torch.float32, where), tokenizer, stop_ids=()) for where in (device, "cpu")
    )
    prompts = random_prompts(SMALL.vocab_size, 8, 20, seed=0)
    largest = 0.0
    requests = [here.submit(prompt, CHECKED) for prompt in prompts]
    done: dict[int, tuple[int, ...]] = {}
    while len(done) < len(requests):
        done |= {delta.request: delta.completion.ids for delta in here.step() if delta.completion}
    for prompt, request in zip(prompts, requests, strict=True):
        scored = reference.score_with_top([[*prompt, *done[request]]], 1)[0]
        pairs = zip(scored.logprobs, scored.top, strict=True)
        largest = max(largest, *[top[0][1] - mine for mine, top in list(pairs)[len(prompt) - 1 :]])
    if not largest <= TOLERANCE:
        raise SystemExit(f"{device}: a token was {largest} nats less likely than the best of the CPU's")
    return {"largest_difference": largest, "tolerance": TOLERANCE}


def summary(name: str, case: Case, found: Mapping[str, Any], bandwidth: float | None) -> dict[str, Any]:
    """What the result file says of a case."""
    if "failed" in found:
        return {"case": name, **found}
    speed = statistics.median(found["decode"])
    line = {
        "case": name,
        "decode": speed,
        "spread": [min(found["decode"]), max(found["decode"])],
        "prefill": statistics.median(found["prefill"]),
        "warm_up_seconds": found["warm_up_seconds"],
    }
    if "step_bytes" in found:
        read = found["step_bytes"] * speed / case.requests
        line |= {
            "runner": found["runner"],
            "parameters": found["parameters"],
            "bytes_per_second": read,
            "share_of_bandwidth": read / bandwidth if bandwidth else None,
            "share_of_measured": read / found["measured_bandwidth"],
            "peak_bytes": found["peak_bytes"],
        }
    return line


def measure_all(bandwidth: float | None) -> dict[str, Any]:
    """Check and cases, each by itself, the most important first, as far as the time goes."""
    start = time.perf_counter()

    def run(name: str, side: str) -> dict[str, Any]:
        left = LIMIT - (time.perf_counter() - start)
        command = [sys.executable, __file__, "--case", name, "--side", side]
        return answer_in_time(command, f"{name}, {side}", left, least=RESERVE, most=LONGEST)

    model_folder(BILLION)
    checks = run(ONE, "check")
    found = {(name, "ours"): run(name, "ours") for name in (ONE, MANY)}
    found |= {(name, peer): run(name, peer) for name in (MANY, ONE) for peer in PEERS}
    lines = [summary(f"{name}, {side}", CASES[name], told, bandwidth) for (name, side), told in found.items()]
    for line in lines:
        print(json.dumps(line))
    rows = [row for name, bar in ((ONE, None), (MANY, MANY_BAR)) if (row := beside_peers(found, name, bar))]
    seconds = time.perf_counter() - start
    return {"bandwidth": bandwidth, "cases": lines, "checks": checks, "seconds": seconds, "rows": rows}


def beside_peers(found: Mapping[tuple[str, str], dict[str, Any]], name: str, bar: float | None) -> Row | None:
    """Ours and the fastest peer; None where one of them has no figures."""
    ours = found[name, "ours"]
    peers = {peer: found[name, peer] for peer in PEERS if "failed" not in found[name, peer]}
    if "failed" in ours or not peers:
        return None
    best = max(peers, key=lambda peer: statistics.median(peers[peer]["decode"]))
    return compare(f"1B, {name}", "tokens/s", ours["decode"], peers[best]["decode"], best, bar)


def main() -> None:
    """All cases on this machine's GPU."""
    if not torch.cuda.is_available():
        raise SystemExit("no NVIDIA GPU is at hand: nothing was measured. --tiny runs everything on a CPU.")
    name = torch.cuda.get_device_name()
    known = by_device_name(name)
    print(f"{name}; {known.bandwidth / 1e9:.0f} GB/s" if known else f"{name}: its bandwidth is not known")
    found = measure_all(known.bandwidth if known else None)
    notes = " ".join((__doc__ or "").split())
    publish("decode_gpu", found.pop("rows"), ("torch", "transformers"), notes, found)
    if "failed" in found["checks"]:
        raise SystemExit("the tokens were not shown to be the CPU's: the speeds above prove nothing")


def run_tiny() -> list[dict[str, Any]]:
    """Every path at a toy size on this machine's CPU; the figures mean nothing."""
    print(f"tiny, on a CPU: the figures mean nothing; {tokens_agree('cpu')}", file=sys.stderr)
    lines: list[dict[str, Any]] = []
    for name, case in CASES.items():
        small = replace(case, config=SMALL, requests=min(case.requests, 4), prompt=16, tokens=9)
        lines.append(summary(f"{name}, ours", small, run_ours(small, "cpu", 2), None))
        lines += [summary(f"{name}, {peer}", small, run_peer(small, peer, "cpu", 2), None) for peer in PEERS]
    return lines


def run_case(name: str, side: str) -> dict[str, Any]:
    """One side of a case, or the check, on the GPU."""
    if side == "check":
        return tokens_agree("cuda")
    if side == "ours":
        return run_ours(CASES[name], "cuda", TURNS)
    return run_peer(CASES[name], side, "cuda", TURNS)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Decoding speed on one NVIDIA GPU.")
    parser.add_argument("--tiny", action="store_true", help="toy sizes, on any machine")
    parser.add_argument("--case", choices=list(CASES), help="one case, as a line of JSON")
    parser.add_argument("--side", choices=["check", "ours", *PEERS], default="ours", help="whose")
    chosen = parser.parse_args()
    if chosen.tiny:
        print(json.dumps(run_tiny(), indent=2))
    elif chosen.case:
        print(json.dumps(run_case(chosen.case, chosen.side)))
    else:
        main()
