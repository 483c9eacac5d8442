"""Several models under one roof, weights exchanged while requests run, and the way out."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable

import httpx
import pytest
import torch
from tests.server.running import Running, held, wait_for

from modelwright.base.errors import UserError
from modelwright.inference.engine import Engine
from modelwright.model.transformer import Transformer
from modelwright.server.models import Loaded, Source

CHAT = "/v1/chat/completions"
ASK = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8, "temperature": 0}


@pytest.fixture
def other(model: Transformer) -> Transformer:
    """The same shape with other weights."""
    torch.manual_seed(1)
    other = Transformer(model.config)
    with torch.no_grad():
        for parameter in other.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.3)
    return other


@pytest.fixture
def make(tokenizer) -> Callable[..., Loaded]:
    """Weights -> an engine with nothing else in it."""

    def make(model: Transformer, fingerprint: str = "abc", **settings: object) -> Loaded:
        return Loaded(Engine(model, tokenizer, **settings), fingerprint)

    return make


def said(http: httpx.Client, model: str | None, **more: object) -> str:
    response = http.post(CHAT, json=ASK | ({"model": model} if model else {}) | more)
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]["content"]


def test_each_name_answers_with_its_own_weights(model, other, make):
    sources = [Source("first", lambda: make(model)), Source("second", lambda: make(other, "def"))]
    with Running(sources, ()) as server, httpx.Client(base_url=server.url) as http:
        assert server.loaded.wait(30)
        assert said(http, "first") != said(http, "second")
        cards = http.get("/v1/models").json()["data"]
        assert [(card["id"], card["fingerprint"]) for card in cards] == [("first", "abc"), ("second", "def")]
        nameless = http.post(CHAT, json=ASK)
        assert nameless.status_code == 400 and nameless.json()["error"]["param"] == "model"
        near = http.post(CHAT, json=ASK | {"model": "secnd"})
        assert near.status_code == 404 and "Did you mean 'second'?" in near.json()["error"]["message"]


def test_while_models_load_health_says_so(model, make):
    go = threading.Event()

    def load() -> Loaded:
        assert go.wait(30)
        return make(model)

    with Running([Source("tiny", load)], ()) as server, httpx.Client(base_url=server.url) as http:
        early = None
        while early is None:
            try:
                early = http.get("/health")
            except httpx.ConnectError:
                continue
        assert (early.status_code, early.json()) == (503, {"status": "loading"})
        for name in ("tiny", "adapter that may come", None):
            refused = http.post(CHAT, json=ASK | ({"model": name} if name else {}))
            assert refused.status_code == 503 and refused.json()["error"]["code"] == "loading"
            assert int(refused.headers["retry-after"]) > 0
        assert http.get("/v1/models").json()["data"] == []
        go.set()
        assert server.loaded.wait(30)
        assert http.get("/health").status_code == 200 and said(http, None)


def test_a_reload_changes_the_weights_and_open_answers_keep_theirs(model, other, make):
    """A stream that began on the old weights ends on them; what comes later gets the new ones."""
    old, new = make(model, "old"), make(other, "new")
    weights, go = iter([old, new]), held(old.engine)
    with (
        Running([Source("tiny", lambda: next(weights))], ()) as server,
        httpx.Client(base_url=server.url, timeout=30) as http,
    ):
        assert server.loaded.wait(30)
        before = said(http, "tiny")
        generation = server.service.models["tiny"].generation
        go.clear()
        with http.stream("POST", CHAT, json=ASK | {"stream": True}) as stream:
            lines = stream.iter_lines()
            first = next(lines)
            begun = http.post("/reload", json={"model": "tiny"})
            assert (begun.status_code, begun.json()["status"]) == (202, "loading")
            wait_for(lambda: server.service.models["tiny"].generation is not generation)
            after = said(http, "tiny")
            assert generation.worker.alive
            go.set()
            rest = [first, *lines]
        chunks = [json.loads(line[6:]) for line in rest if line.startswith("data: {")]
        streamed = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
        assert streamed == before != after
        assert {chunk["system_fingerprint"] for chunk in chunks} == {"old"}
        wait_for(lambda: not generation.worker.alive)  # its last user has left
        assert http.get("/v1/models/tiny").json()["fingerprint"] == "new"


def test_a_reload_that_fails_leaves_the_old_weights(model, make, caplog):
    loads = iter([make(model)])

    def load() -> Loaded:
        for loaded in loads:
            return loaded
        raise UserError("the folder is gone")

    with Running([Source("tiny", load)], ()) as server, httpx.Client(base_url=server.url) as http:
        assert server.loaded.wait(30)
        before = said(http, "tiny")
        assert http.post("/reload", json={"model": "tiny"}).status_code == 202
        wait_for(lambda: http.get("/v1/models/tiny").json()["reload_error"] == "the folder is gone")
        assert said(http, "tiny") == before and http.get("/health").status_code == 200


def test_only_what_was_named_at_the_start_is_reloaded(model, make):
    go, loads = threading.Event(), iter([make(model), make(model)])
    go.set()

    def load() -> Loaded:
        assert go.wait(30)
        return next(loads)

    with Running([Source("tiny", load)], ()) as server, httpx.Client(base_url=server.url) as http:
        assert server.loaded.wait(30)
        for name in ("/etc/passwd", "../tiny", "tiny=/elsewhere", ""):
            refused = http.post("/reload", json={"model": name})
            assert refused.status_code == 404 and refused.json()["error"]["code"] == "model_not_found"
        assert http.post("/reload", json={}).status_code == 400
        aside = http.post("/reload", json={"model": "tiny", "path": "/elsewhere"})
        assert aside.status_code == 400 and aside.json()["error"]["param"] == "path"
        assert http.get("/reload").status_code == 405
        go.clear()
        assert http.post("/reload", json={"model": "tiny"}).status_code == 202
        again = http.post("/reload", json={"model": "tiny"})
        assert again.status_code == 409 and again.json()["error"]["code"] == "loading"
        assert said(http, "tiny")  # goes on meanwhile
        go.set()


def test_a_drained_server_finishes_what_is_open_and_takes_nothing_new(model, make):
    """What SIGTERM does, without the signal (tests/stages sends one)."""
    loaded = make(model)
    go = held(loaded.engine)
    with (
        Running([Source("tiny", lambda: loaded)], ()) as server,
        httpx.Client(base_url=server.url, timeout=30) as http,
        httpx.Client(base_url=server.url, timeout=30) as late,
    ):
        assert server.loaded.wait(30)
        go.clear()
        with http.stream("POST", CHAT, json=ASK | {"stream": True}) as stream:
            lines = stream.iter_lines()
            got = [next(lines)]
            server.drain()
            refused = late.post(CHAT, json=ASK)
            assert refused.status_code == 503 and refused.json()["error"]["code"] == "draining"
            assert int(refused.headers["retry-after"]) > 0
            health = late.get("/health")
            assert (health.status_code, health.json()) == (503, {"status": "draining"})
            go.set()
            got += lines
        assert [line for line in got if line][-1] == "data: [DONE]"
        server.thread.join(10)
        assert not server.thread.is_alive()


def test_nobody_waits_for_a_load_when_the_server_stops(model, make):
    begun, go = threading.Event(), threading.Event()

    def load() -> Loaded:
        begun.set()
        assert go.wait(30)
        return make(model)

    with Running([Source("tiny", load)], ()) as server:
        assert begun.wait(30)
        server.server.should_exit = True
        server.thread.join(10)
        alive = server.thread.is_alive()
        go.set()
        assert not alive


def test_draining_has_an_end(model, make):
    loaded = make(model)
    go = held(loaded.engine)
    with Running([Source("tiny", lambda: loaded)], (), drain_seconds=0.2) as server:
        assert server.loaded.wait(30)
        go.clear()
        with (
            httpx.Client(base_url=server.url, timeout=30) as http,
            http.stream("POST", CHAT, json=ASK | {"stream": True}) as stream,
        ):
            lines = stream.iter_lines()  # kept: a dropped iterator closes the stream
            next(lines)
            server.drain()
            time.sleep(0.5)  # past the limit, and the engine has not moved
            go.set()
            server.thread.join(10)
            assert not server.thread.is_alive()
