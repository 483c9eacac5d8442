"""A crowd from another process: nothing leaks, and everybody gets what he would get alone."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from tests.server.running import MODEL, Running, wait_for

from modelwright.base.schema import Conversation, Message, Sampling
from modelwright.inference.engine import Engine
from modelwright.server.models import Loaded, Source
from modelwright.tokenizer.chat import render

CROWD = Path(__file__).with_name("crowd.py")
VARIANTS = 60
GROWTH = 64 << 20
"""Bytes by which the process may grow in a crowd, after a first one has warmed it up."""


def variants(engine: Engine, dice: random.Random) -> list[tuple[dict, list[int], Sampling]]:
    """Requests of both kinds and of unequal lengths: (what is sent, the prompt's ids, the sampling)."""
    made = []
    for seed in range(VARIANTS):
        text = "The capital of France is " * dice.randrange(1, 12) + str(seed)
        body = {"max_tokens": dice.choice((1, 4, 16, 40)), "temperature": dice.choice((0, 0.7, 1.3))}
        sampling = Sampling(seed=seed, **body)
        body |= {"seed": seed, "model": MODEL}
        if seed % 2:
            ids = engine.tokenizer.encode(text)
            made.append(({"path": "/v1/completions", "body": body | {"prompt": text}}, ids, sampling))
        else:
            turns = Conversation(messages=(Message(role="user", content=text),))
            ids = render(engine.tokenizer, turns, add_generation_prompt=True).ids
            messages = [{"role": "user", "content": text}]
            body |= {"messages": messages}
            made.append(({"path": "/v1/chat/completions", "body": body}, ids, sampling))
    return made


def crowd(url: str, requests: Path, count: int, seed: int) -> dict:
    arguments = [url, str(requests), str(count), str(seed), "70"]
    done = subprocess.run(
        [sys.executable, str(CROWD), *arguments], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("count", [850, pytest.param(20_000, marks=pytest.mark.slow)])
def test_a_crowd_leaves_nothing_behind(model, tokenizer, tmp_path, count):
    engine = Engine(model, tokenizer, max_slots=16, stop_ids=())
    asked = variants(engine, random.Random(7))
    requests = tmp_path / "requests.json"
    requests.write_text(json.dumps([request for request, _, _ in asked]), encoding="utf-8")
    with Running([Source(MODEL, lambda: Loaded(engine, "abc"))], (), queue_limit=16) as server:
        assert server.loaded.wait(30)
        warm = crowd(server.url, requests, 150, seed=1)
        before = resident()
        found = crowd(server.url, requests, count, seed=2)
        worker = server.service.models[MODEL].generation.worker
        wait_for(lambda: worker.open == 0)
        wait_for(lambda: not server.server.server_state.connections)
        assert resident() - before < GROWTH
        stats = engine.stats()
        assert (stats.running, stats.waiting, stats.cache_usage) == (0, 0, 0)
        assert not server.server.server_state.tasks and server.service.state == "ok"
        ended = sum(server.service.models[MODEL].meters.finished.values())
    assert found["left"] > count / 20 and found["refused"] > 0
    assert len(found["texts"]) + found["left"] == count
    assert len(found["texts"]) + len(warm["texts"]) <= ended <= count + 150  # some left before they began
    alone = Engine(model, tokenizer, max_slots=1, stop_ids=())
    expected = [alone.sample([ids], sampling)[0].text for _, ids, sampling in asked]
    wrong = [(number, text) for number, text in found["texts"] if text != expected[number]]
    assert not wrong
