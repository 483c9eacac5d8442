"""Serving on a CPU: 32 clients at once, from a second process, against one alone and llama.cpp's server.

Each side is a process that starts its server as a child and then is the clients: in its turn 32 of them send
a prompt of about 128 tokens each, all different, to /v1/completions and read the stream of 64 tokens, chosen
greedily. Tokens per second in all run from the first byte sent to the last received; the first token is
clocked at the first piece of the stream, a token's time is what is left over the tokens left. llama.cpp's
server takes part where MODELWRIGHT_LLAMA_SERVER names its binary; transformers has none, so its forward
passes over all 32 prompts at once stand for it, without any HTTP. One client alone asks for two answers in a
turn, one after the other. The model is decode_cpu.py's, in bf16.

    make bench NAME=serve_cpu
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import torch

from decode_models import CONFIGS, gguf_file, library_text, model_folder
from decode_peers import Transformers
from modelwright.inference.measure import random_prompts
from modelwright.stages.serve import serve
from record import Pace, Row, compare, interleave, publish

CLIENTS, TOKENS = 32, 64
PROMPT_TOKENS, PROMPT_LETTERS = 128, 600
"""Letters of Python source that make about so many tokens."""
CONTEXT = 512
WARM_UP, ROUNDS = 2, 9
START_SECONDS = 60.0
LLAMA_SERVER = "MODELWRIGHT_LLAMA_SERVER"
OURS, LLAMA_CPP, TRANSFORMERS = "ours", "llama.cpp's server", "transformers, one batch"
ALONE = "ours, one client alone"
BARS = {LLAMA_CPP: 1.0, TRANSFORMERS: 1.0, ALONE: 3.0}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client saw, in seconds since it sent its request."""

    first: float
    last: float
    tokens: int
    prompt_tokens: int

    @property
    def token_seconds(self) -> float:
        """Between two tokens, on average."""
        return (self.last - self.first) / max(self.tokens - 1, 1)


def prompts_of(turn: int, clients: int) -> list[str]:
    """Pieces of Python's library that no other turn has."""
    text = "".join(islice(library_text(), 40))
    starts = [(turn * clients + client) * PROMPT_LETTERS for client in range(clients)]
    return [text[start % (len(text) - PROMPT_LETTERS) :][:PROMPT_LETTERS] for start in starts]


async def ask(client: httpx.AsyncClient, model: str, prompt: str) -> Answer:
    """One request, read piece by piece as it comes."""
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    start, first, pieces = time.perf_counter(), 0.0, list[bytes]()
    async with client.stream("POST", "/v1/completions", json=body) as response:
        if response.status_code != 200:
            raise SystemExit(f"{response.status_code}: {(await response.aread()).decode()}")
        async for piece in response.aiter_raw():
            first = first or time.perf_counter() - start
            pieces.append(piece)
    last = time.perf_counter() - start
    usage = usage_of(b"".join(pieces).decode())
    return Answer(first, last, usage["completion_tokens"], usage["prompt_tokens"])


def usage_of(stream: str) -> dict[str, int]:
    """The count of tokens at the end of a stream of server-sent events."""
    events = [line.removeprefix("data: ") for line in stream.splitlines() if line.startswith("data: {")]
    return next(found for event in reversed(events) if (found := json.loads(event).get("usage")))


async def ask_together(address: str, prompts: Sequence[str]) -> tuple[float, list[Answer]]:
    """Seconds of all these clients, and what each saw."""
    limits = httpx.Limits(max_connections=len(prompts))
    async with httpx.AsyncClient(base_url=address, timeout=300, limits=limits) as client:
        model = (await client.get("/v1/models")).json()["data"][0]["id"]
        start = time.perf_counter()
        answers = await asyncio.gather(*(ask(client, model, prompt) for prompt in prompts))
        return time.perf_counter() - start, answers


def figures(seconds: float, answers: Sequence[Answer]) -> dict[str, float]:
    """What a turn is told as."""
    first = [answer.first for answer in answers]
    token = [answer.token_seconds for answer in answers]
    return {
        "tokens/s": sum(answer.tokens for answer in answers) / seconds,
        "prompt tokens": statistics.mean(answer.prompt_tokens for answer in answers),
        "first token, median": statistics.median(first),
        "first token, p95": percentile_95(first),
        "token, median": statistics.median(token),
        "token, p95": percentile_95(token),
    }


def percentile_95(values: Sequence[float]) -> float:
    """All but one in twenty are at most this."""
    return sorted(values)[int(0.95 * (len(values) - 1) + 0.5)]


def free_port() -> int:
    """A port that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def running(command: Sequence[str], address: str) -> Iterator[None]:
    """The server of this command, from when it answers until the block ends."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not answers(address):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{command[0]} does not serve at {address}")
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


def answers(address: str) -> bool:
    """Whether a server is there and has its model."""
    try:
        return httpx.get(f"{address}/health", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def command_of(name: str, folder: Path, port: int) -> list[str]:
    """How a side's server is started."""
    if name in (OURS, ALONE):
        return [sys.executable, __file__, "--serve", str(folder), str(port)]
    sizes = ["-c", str(CONTEXT * CLIENTS), "-np", str(CLIENTS), "-t", str(torch.get_num_threads())]
    where = ["--host", "127.0.0.1", "--port", str(port)]
    return [os.environ[LLAMA_SERVER], "-m", str(gguf_file(folder, "BF16")), *sizes, *where]


def work(name: str) -> None:
    """One side, turn by turn."""
    folder, pace = model_folder(CONFIGS["medium"]), Pace(WARM_UP)
    if name == TRANSFORMERS:
        return work_without_server(folder, pace)
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    with running(command_of(name, folder, port), address):
        for turn in range(10**6):
            prompts = prompts_of(turn, CLIENTS)
            crowds = [[prompt] for prompt in prompts[:2]] if name == ALONE else [prompts]
            turns = [asyncio.run(ask_together(address, crowd)) for crowd in crowds]
            seconds = sum(seconds for seconds, _ in turns)
            pace(figures(seconds, [answer for _, answers in turns for answer in answers]))


def work_without_server(folder: Path, pace: Pace) -> None:
    """transformers' turns: all prompts in one batch."""
    model = Transformers(folder)
    for turn in range(10**6):
        prompts = random_prompts(CONFIGS["medium"].vocab_size, CLIENTS, PROMPT_TOKENS, turn)
        spent = model.time_phases(prompts, TOKENS)
        pace({"tokens/s": (CLIENTS + spent.decoded) / (spent.prefill + spent.decode)})


def judge(found: dict[str, list[dict[str, float]]]) -> list[Row]:
    """Ours beside each peer; times are compared as rates, so that higher is better in every row."""
    rows: list[Row] = []
    for peer in found:
        if peer != OURS:
            mine, theirs = rates(found, peer, "tokens/s")
            rows.append(compare(f"{CLIENTS} clients, all tokens", "tokens/s", mine, theirs, peer, BARS[peer]))
    for figure in ("first token, median", "first token, p95", "token, median", "token, p95"):
        if LLAMA_CPP in found:
            mine, theirs = ([1 / turn[figure] for turn in found[name]] for name in (OURS, LLAMA_CPP))
            rows.append(compare(f"{CLIENTS} clients, {figure}", "1/s", mine, theirs, LLAMA_CPP, None))
    return rows


def rates(found: dict[str, list[dict[str, float]]], peer: str, figure: str) -> list[list[float]]:
    """A figure of ours and of a peer, turn by turn."""
    return [[turn[figure] for turn in found[name]] for name in (OURS, peer)]


def main() -> None:
    """All sides, in turns."""
    names = [OURS, ALONE, TRANSFORMERS, *([LLAMA_CPP] if os.environ.get(LLAMA_SERVER) else [])]
    found = interleave({name: [sys.executable, __file__, "--side", name] for name in names}, ROUNDS)
    medians: dict[str, Any] = {
        name: {figure: statistics.median(turn[figure] for turn in turns) for figure in turns[0]}
        for name, turns in found.items()
    }
    print(json.dumps(medians, indent=2))
    notes = f"bf16, {torch.get_num_threads()} threads; {__doc__}"
    packages = "torch", "transformers", "httpx"
    publish("serve_cpu", judge(found), packages, " ".join(notes.split()), {"medians": medians})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        work(sys.argv[2])
    elif sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], port=int(sys.argv[3]), slots=CLIENTS, dtype="bfloat16")
    else:
        main()
