"""How fast a model answers on this machine, and how fast the machine would let it."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from modelwright.base.errors import UserError
from modelwright.base.metrics import counted, size
from modelwright.base.resources import peak_resident_bytes
from modelwright.inference.measure import random_prompts, step_bytes, time_phases
from modelwright.planning.machines import read_bandwidth
from modelwright.terminal.load import Loaded, load

BATCHES = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True, slots=True)
class Speed:
    """Requests that come at once: medians of the repeats, in tokens per second of all together."""

    batch: int
    first_token_seconds: float
    """Until the last of them has its first token."""
    prefill: float
    decode: float
    token_seconds: float
    """Between two tokens of one request."""
    limit: float
    """Decoding one token a step could be so fast at most: what a step must read, over the bandwidth."""
    drafted: int
    """Tokens that were guessed (0 without speculation), and how many of these were right:"""
    accepted: int

    @property
    def share(self) -> float:
        """What part of that limit is reached."""
        return self.decode / self.limit


@dataclass(frozen=True, slots=True)
class Speeds:
    """What `modelwright bench` finds."""

    model: str
    device: str
    threads: int
    dtype: str
    prompt: int
    tokens: int
    weight_bytes: float
    """Read in a step of one request, besides its cache."""
    cache_bytes_per_token: float
    peak_bytes: int
    """The most memory that was held: tensors on a GPU, the whole process on a CPU."""
    bandwidth: float
    """Bytes per second of reading a buffer of the weights' size."""
    rows: list[Speed]


def bench(
    model_path: Path | str,
    *,
    prompt: int = 128,
    tokens: int = 64,
    repeats: int = 3,
    batches: Sequence[int] = BATCHES,
    device: str = "cpu",
    dtype: str = "auto",
    speculate: str | None = None,
    guesses: int | None = None,
    as_json: bool = False,
    console: Console | None = None,
) -> None:
    """Measure and show prefill, decoding and memory for several numbers of requests at once.

    The prompts are random tokens, decoding is greedy and nothing ends an answer before `tokens`.
    """
    console = console or Console(highlight=False)
    loaded = load(
        model_path,
        device,
        dtype=dtype,
        slots=max(batches),
        stop_ids=(),
        speculate=speculate,
        guesses=guesses,
    )
    if prompt + tokens > loaded.engine.max_length:
        raise UserError(
            f"--prompt {prompt} and --tokens {tokens} do not fit into the model's context of "
            f"{loaded.engine.max_length} tokens: expected fewer"
        )
    found = measure(loaded, prompt, tokens, repeats, batches)
    if as_json:
        rows = [{**asdict(row), "share": row.share} for row in found.rows]
        content = json.dumps({**asdict(found), "rows": rows}, ensure_ascii=False, indent=2)
        console.print(Text(content), soft_wrap=True)
    else:
        _show(console, found)


def measure(loaded: Loaded, prompt: int, tokens: int, repeats: int, batches: Sequence[int]) -> Speeds:
    """All figures of a model; every prompt is new, so that no cache answers."""
    model, engine = loaded.model, loaded.engine
    device = engine.device
    weights = step_bytes(model, 1, 0)
    bandwidth = read_bandwidth(round(weights), device.type)
    rows: list[Speed] = []
    for batch in batches:
        before = engine.stats()
        turns = [
            time_phases(engine, random_prompts(engine.vocab_size, batch, prompt, 1000 * batch + turn), tokens)
            for turn in range(repeats + 1)
        ][1:]  # the first compiles, and touches memory for the first time
        first = statistics.median(turn.prefill for turn in turns)
        decode = statistics.median(turn.decode_rate for turn in turns)
        after = engine.stats()
        reads = step_bytes(model, batch, prompt + tokens // 2)
        rows.append(
            Speed(
                batch=batch,
                first_token_seconds=first,
                prefill=batch * prompt / first,
                decode=decode,
                token_seconds=batch / decode,
                limit=batch * bandwidth / reads,
                drafted=after.drafted - before.drafted,
                accepted=after.accepted - before.accepted,
            )
        )
    on_gpu = device.type == "cuda"
    return Speeds(
        model=loaded.line,
        device=torch.cuda.get_device_name(device) if on_gpu else "cpu",
        threads=torch.get_num_threads(),
        dtype=str(model.compute_dtype).removeprefix("torch."),
        prompt=prompt,
        tokens=tokens,
        weight_bytes=weights,
        cache_bytes_per_token=step_bytes(model, 1, 1) - weights,
        peak_bytes=torch.cuda.max_memory_allocated(device) if on_gpu else peak_resident_bytes(),
        bandwidth=bandwidth,
        rows=rows,
    )


def _show(console: Console, found: Speeds) -> None:
    console.print(Text(found.model, style="dim"), soft_wrap=True)
    lines = (
        f"{found.device}, {counted(found.threads, 'thread')}, {found.dtype}; "
        f"prompts of {counted(found.prompt, 'token')}, answers of {found.tokens}",
        f"weights {size(found.weight_bytes)}, cache {size(found.cache_bytes_per_token)} a token, "
        f"{size(found.peak_bytes)} held at most; reads {found.bandwidth / 1e9:,.1f} GB/s",
    )
    console.print(Text("\n".join(lines)), soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="dim")
    # 80 columns hold the table, guesses and all, if the units stand in the heads.
    heads = "at once", "first\ntoken ms", "prefill\ntok/s", "decode\ntok/s", "a token\nevery ms"
    guessing = any(row.drafted for row in found.rows)
    for head in (*heads, "limit\ntok/s", "reached", *(["guesses\nright"] if guessing else [])):
        table.add_column(head, justify="right", no_wrap=True)
    for row in found.rows:
        table.add_row(
            str(row.batch),
            f"{row.first_token_seconds * 1e3:,.0f}",
            f"{row.prefill:,.0f}",
            f"{row.decode:,.1f}",
            f"{row.token_seconds * 1e3:,.1f}",
            f"{row.limit:,.0f}",
            f"{row.share:.0%}",
            *([f"{row.accepted:,} of {row.drafted:,}"] if guessing else []),
        )
    console.print(table)
    console.print(
        Text(
            "The limit is bandwidth: a step reads all weights once and the cache of each request. With many "
            "requests arithmetic bounds it before."
            + (" Guesses that are right bring more than one token a step." if guessing else ""),
            style="dim",
        )
    )
