"""Decoding on a CPU: our engine against transformers and llama.cpp, with the same random weights.

Each side is a process of its own, bound to as many processors as it has threads; they take turns, and in its
turn each continues fresh prompts greedily (inference/measure.py): one alone, so that decode and prefill are
told apart, or 32 at once. Every turn has prompts that no earlier one had. transformers runs in a loop of its
own forward passes, eagerly and compiled with a static cache; llama.cpp with flash attention on and off; of
each the fastest is the peer, and the others' medians stand beside the rows. Ours is the engine that chat,
evaluation and the server share (`submit` and `step`), in bf16 and with quantized weights (then the head
in 8 bits too, as in llama.cpp's files).

A last side reads a buffer as large as the weights and does nothing else: the bandwidth that bounds decoding.
`shares` says what part of it each side reaches: bytes of weights x tokens per second / bandwidth of a buffer
of that size, since a large cache may hold some of it.

The rollouts are 64 prompts of 16 to 64 tokens with answers of 8 to 256 tokens, sampled at temperature 1 from
a network of the quickstart's shape; transformers' `generate` pads to the left and goes on until the longest
answer of a batch has ended. Tokens that were asked for count, others do not. Each case says of which
machine it is, and of which versions.

    make bench NAME=decode_cpu                         # everything: a quarter of an hour
    python benchmarks/decode_cpu.py rollouts ...       # these cases; the others' results stay
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch

from decode_models import CONFIGS, SCHEMES, gguf_file, model_folder, quantized_folder
from decode_peers import LlamaCpp, Transformers
from modelwright.base.run import code_revision, machine
from modelwright.base.schema import Sampling
from modelwright.formats.huggingface import load_model
from modelwright.inference.engine import Engine
from modelwright.inference.measure import Phases, random_prompts, step_bytes, time_phases
from modelwright.planning.machines import read_bandwidth
from modelwright.tokenizer.bpe import BPETokenizer
from record import Pace, Row, compare, interleave, publish_cases

WARM_UP = 1
PROMPT, TOKENS = 128, 65
"""Decoding begins behind a prompt and goes on for so many tokens: contexts of 128 to 193."""
PREFILLS = 512, 1024
MEMORY = 2**30
"""Bytes of a buffer that no cache holds."""
READER = "reading a buffer"


class Ours:
    """The engine, through the methods that the server calls."""

    def __init__(self, folder: Path, slots: int, format: str) -> None:
        source = quantized_folder(folder, format) if format in SCHEMES else folder
        model = load_model(source, torch.float32 if format == "fp32" else torch.bfloat16)
        # As llama.cpp's quantized files, which have the output projection in 8 bits (Q8_0) or 6 (Q4_0).
        head: Literal["auto", "int8"] = "int8" if format in SCHEMES else "auto"
        saved = model.head.numel() if head == "int8" else 0
        self.facts: dict[str, float] = {"weights": step_bytes(model, 1, 0) - saved}
        self._engine = Engine(model, BPETokenizer.load(folder), max_slots=slots, stop_ids=(), head=head)

    def time_phases(self, prompts: list[list[int]], tokens: int) -> Phases:
        """As `inference.measure` does."""
        return time_phases(self._engine, prompts, tokens)

    def rollouts(self, prompts: list[list[int]], lengths: list[int]) -> float:
        """Seconds until the last of these answers, sampled at temperature 1."""
        start = time.perf_counter()
        for prompt, length in zip(prompts, lengths, strict=True):
            self._engine.submit(prompt, Sampling(max_tokens=length, temperature=1.0, seed=0))
        ended = 0
        while ended < len(prompts):
            ended += sum(delta.completion is not None for delta in self._engine.step())
        return time.perf_counter() - start


Kind = Literal["decode", "prefill", "concurrent", "rollouts"]


@dataclass(frozen=True, slots=True)
class Case:
    """What all sides do in a turn, and what is made of it."""

    kind: Kind
    config: str
    threads: int
    requests: int
    """At once."""
    sides: tuple[str, ...]
    rows: tuple[tuple[str, str, str, float | None], ...]
    """(figure, ours, the peers by the beginning of their names, the bar)."""
    rounds: int
    tokens: int = TOKENS
    """Of each answer, where they are of one length."""

    @property
    def context(self) -> int:
        """The longest that a sequence gets."""
        return max(PREFILLS) + 8 if self.kind == "prefill" else PROMPT + TOKENS + 63


LLAMA_CPP = {
    f"llama.cpp {kind}{', flash attention' if flash else ''}": (kind, flash)
    for kind in ("BF16", "Q8_0", "Q4_0")
    for flash in (False, True)
}
TRANSFORMERS: Mapping[str, Mapping[str, Any]] = {
    "transformers, eager": {},
    "transformers, compiled": {"compiled": True},
    "transformers fp32, eager": {"dtype": torch.float32},
}
OURS = "ours bf16", "ours INT8", "ours INT4"
DECODE_ROWS = (
    ("decode", "ours bf16", "transformers", 1.5),
    ("decode", "ours bf16", "llama.cpp BF16", 1.0),
    ("decode", "ours INT8", "transformers", 2.5),
    ("decode", "ours INT8", "llama.cpp Q8_0", 1.0),
    ("decode", "ours INT4", "transformers", 4.0),
    ("decode", "ours INT4", "llama.cpp Q4_0", 1.0),
)
PREFILL_ROWS = tuple(
    (f"prefill {length}", ours, peer, bar)
    for length in PREFILLS
    for ours, peer, bar in (
        ("ours bf16", "transformers", 1.0),
        ("ours bf16", "llama.cpp BF16", 1.0),
        ("ours INT8", "llama.cpp Q8_0", 1.5),
    )
)
TOGETHER_ROWS = (
    ("decode", "ours bf16", "transformers", 1.0),
    ("decode", "ours bf16", "ours bf16, alone", 3.0),
    ("decode", "ours bf16", "llama.cpp BF16", 1.0),
    ("whole", "ours bf16", "transformers", 1.0),
    ("whole", "ours bf16", "llama.cpp BF16", None),
)
TOGETHER_QUANTIZED_ROWS = (
    ("decode", "ours INT8", "llama.cpp Q8_0", None),
    ("decode", "ours INT4", "llama.cpp Q4_0", None),
    ("decode", "ours INT8", "transformers", None),
    ("decode", "ours INT4", "transformers", None),
    ("whole", "ours INT8", "transformers", None),
    ("whole", "ours INT4", "transformers", None),
)
ALL = *OURS, "transformers, eager", "transformers, compiled", *LLAMA_CPP
READERS = tuple(side for side in ALL if side not in ("transformers, compiled", "ours INT4"))
"""Sides of which prefill is told: compiled or not, transformers reads prompts in the same way."""
QUANTIZED = "ours INT8", "ours INT4", "transformers, eager", "llama.cpp Q8_0", "llama.cpp Q4_0"
NARROW = "ours bf16", "ours bf16, alone", "transformers, eager", "llama.cpp BF16"
"""With 32 rows transformers is eager, since its compiled step takes minutes to compile for them; llama.cpp is
without flash attention, which slows one request down here and was not tried with 32."""
CASES = {
    "decode, one thread": Case("decode", "medium", 1, 1, (*ALL, READER), DECODE_ROWS, 7),
    "decode, two threads": Case("decode", "medium", 2, 1, (*ALL, READER), DECODE_ROWS, 7),
    "prefill, one thread": Case("prefill", "medium", 1, 1, READERS, PREFILL_ROWS, 6),
    "prefill, two threads": Case("prefill", "medium", 2, 1, READERS, PREFILL_ROWS, 9),
    "32 at once": Case("concurrent", "medium", 2, 32, NARROW, TOGETHER_ROWS, 5, tokens=33),
    "32 at once, quantized": Case(
        "concurrent", "medium", 2, 32, QUANTIZED, TOGETHER_QUANTIZED_ROWS, 5, tokens=33
    ),
    "rollouts": Case(
        "rollouts",
        "quickstart",
        2,
        64,
        (
            "ours fp32",
            "ours bf16",
            "transformers, eager",
            "transformers, compiled",
            "transformers fp32, eager",
        ),
        (("answers", "ours fp32", "transformers", 4.0), ("answers", "ours bf16", "transformers", 4.0)),
        9,
    ),
}


def make_side(case: Case, name: str) -> Ours | Transformers | LlamaCpp:
    """The side of this name, ready to work."""
    folder = model_folder(CONFIGS[case.config])
    if name in LLAMA_CPP:
        kind, flash = LLAMA_CPP[name]
        path, threads = gguf_file(folder, kind), case.threads
        return LlamaCpp(path, threads=threads, context=case.context, sequences=case.requests, flash=flash)
    if name in TRANSFORMERS:
        return Transformers(folder, **TRANSFORMERS[name])
    return Ours(folder, case.requests, name.removeprefix("ours "))


def take_turn(case: Case, side: Ours | Transformers | LlamaCpp, turn: int) -> dict[str, float]:
    """A case's figures, tokens per second; no two turns have the same prompts."""
    vocabulary = CONFIGS[case.config].vocab_size
    if case.kind == "rollouts":
        assert not isinstance(side, LlamaCpp)
        draw = random.Random(turn)
        starts = [draw.randint(16, 64) for _ in range(case.requests)]
        prompts = [random_prompts(vocabulary, 1, length, draw.random())[0] for length in starts]
        lengths = [draw.randint(8, 256) for _ in prompts]
        return {"answers": sum(lengths) / side.rollouts(prompts, lengths)}
    if case.kind == "prefill":
        prompts = {length: random_prompts(vocabulary, 1, length, turn) for length in PREFILLS}
        return {
            f"prefill {length}": length / side.time_phases(prompt, 1).prefill
            for length, prompt in prompts.items()
        }
    spent = side.time_phases(random_prompts(vocabulary, case.requests, PROMPT, turn), case.tokens)
    whole = (case.requests + spent.decoded) / (spent.prefill + spent.decode)
    return {"decode": spent.decode_rate, "whole": whole}


def work(key: str, name: str) -> None:
    """One side of a case, turn by turn, in a process of its own."""
    case = CASES[key]
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: case.threads])
    torch.set_num_threads(case.threads)
    pace = Pace(WARM_UP)
    if name == READER:
        while True:
            pace(read_all(case))
    if name.endswith(", alone"):
        case, name = replace(case, requests=1), name.removesuffix(", alone")
    side = make_side(case, name)
    for turn in range(10**6):
        pace({**take_turn(case, side, turn), **side.facts})


def read_all(case: Case) -> dict[str, float]:
    """Bytes per second of reading memory, and of reading as much as each format's weights are; by size."""
    folder = model_folder(CONFIGS[case.config])
    sizes = [gguf_file(folder, kind).stat().st_size for kind in ("BF16", "Q8_0", "Q4_0")]
    return {str(size): read_bandwidth(size) for size in (*sizes, MEMORY)}


def measure(title: str, key: str, case: Case) -> tuple[list[Row], dict[str, Any]]:
    """All sides of a case, in turns: the rows that are judged, and every side's medians."""
    here = [name for name in case.sides if name not in LLAMA_CPP or find_spec("llama_cpp")]
    found = interleave({name: [sys.executable, __file__, "--side", key, name] for name in here}, case.rounds)
    rows = [row for wanted in case.rows if (row := judge(title, found, *wanted))]
    medians = {
        name: {figure: statistics.median(turn[figure] for turn in turns) for figure in turns[0]}
        for name, turns in found.items()
    }
    reads = medians.pop(READER, {})
    return rows, {
        "revision": code_revision(),
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "hardware": machine(),
        "versions": {package: version(package) for package in packages()},
        "rounds": case.rounds,
        "medians": medians,
        "bytes_per_second_by_buffer": reads,
        "shares": {name: share(figures, reads) for name, figures in medians.items()} if reads else {},
    }


def judge(
    title: str, found: Mapping[str, list[Any]], figure: str, ours: str, peers: str, bar: float | None
) -> Row | None:
    """Ours beside the fastest of the peers whose names begin so; None where there are none."""
    rates = {name: [turn[figure] for turn in found[name]] for name in found if name.startswith(peers)}
    if not rates:
        return None
    peer = max(rates, key=lambda name: statistics.median(rates[name]))
    mine = [turn[figure] for turn in found[ours]]
    return compare(f"{title}: {figure}, {ours}", "tokens/s", mine, rates[peer], peer, bar)


def share(figures: Mapping[str, float], reads: Mapping[str, float]) -> float:
    """What part of the bandwidth that a buffer of the weights' size has a side reaches in decoding alone."""
    nearest = min(reads, key=lambda size: abs(float(size) - figures["weights"]))
    return figures["weights"] * figures["decode"] / reads[nearest]


def packages() -> list[str]:
    """Whose versions are told."""
    return ["torch", "transformers", *(["llama-cpp-python"] if find_spec("llama_cpp") else [])]


def main(keys: Sequence[str]) -> None:
    """Measure these cases, and publish them with what the result file has of others and of other machines."""
    notes = " ".join((__doc__ or "").split())
    publish_cases(
        "decode_cpu", keys, CASES, lambda title, key: measure(title, key, CASES[key]), packages(), notes
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        work(*sys.argv[2:])
    else:
        main(sys.argv[1:] or list(CASES))
