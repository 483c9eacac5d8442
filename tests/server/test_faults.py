"""A request that cannot be computed is told why; whoever is answered beside it hears nothing of it."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from tests.server.running import MODEL, Running, held, wait_for

from modelwright.inference.engine import Engine
from modelwright.server.models import Loaded, Source

COMPLETIONS = "/v1/completions"
POISON = 7
ASK = {"max_tokens": 12, "temperature": 0, "logit_bias": {str(POISON): -100}}
BROKEN = ASK | {"prompt": [20, POISON, 30]}
SOUND = [ASK | {"prompt": [20 + n, 40, 50 + n]} for n in range(3)]


def told(http, ask) -> tuple[int, str]:
    """The status, and the text or the error's message."""
    response = http.post(COMPLETIONS, json=ask)
    body = response.json()
    good = response.status_code == 200
    return response.status_code, body["choices"][0]["text"] if good else body["error"]["message"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("secret detail"), "the engine failed on this request"),
        (MemoryError(), "there is not enough memory for this request"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "there is not enough memory"),
    ],
)
def test_one_failing_request_leaves_the_others_alone(model, tokenizer, error, message, caplog):
    engine = Engine(model, tokenizer)
    compute = engine._runner.logits

    def failing(pieces):
        if any(POISON in piece.ids for piece in pieces):
            raise error
        return compute(pieces)

    go = held(engine)
    with Running([Source(MODEL, lambda: Loaded(engine, "abc"))], ()) as server, ThreadPoolExecutor(8) as pool:
        assert server.loaded.wait(30)
        with httpx.Client(base_url=server.url) as http:
            alone = [told(http, ask) for ask in SOUND]
            assert all(status == 200 for status, _ in alone)
            engine._runner.logits = failing
            go.clear()
            asks = (SOUND[0], BROKEN, SOUND[1], BROKEN | {"n": 3}, SOUND[2])
            found = [pool.submit(told, http, ask) for ask in asks]
            worker = server.service.models[MODEL].generation.worker
            wait_for(lambda: worker.open == 7)
            go.set()
            first, broken, second, several, third = (each.result() for each in found)
            assert [first, second, third] == alone
            for status, said in (broken, several):
                assert status == 500 and said.startswith(message) and "secret" not in said
            with http.stream("POST", COMPLETIONS, json=BROKEN | {"stream": True}) as stream:
                lines = [line for line in stream.iter_lines() if line]
            assert message in lines[0] and '"engine_failed"' in lines[0] and lines[1:] == ["data: [DONE]"]
            assert 'finished_reason="error"} 3' in http.get("/metrics").text
            stats = engine.stats()
            assert stats.running == stats.waiting == stats.cache_usage == worker.open == 0
    assert "secret detail" in caplog.text or "secret" not in str(error), "the log has it"


class Panic(BaseException):
    """As those of libraries written in Rust, which are no Exceptions."""


def test_a_panic_ends_what_is_open_and_not_the_service(model, tokenizer):
    engine = Engine(model, tokenizer)
    step = engine.step
    panics = [Panic("secret detail")]

    def panicking():
        if engine.stats().running or engine.stats().waiting:
            for panic in panics[:1]:
                panics.clear()
                raise panic
        return step()

    with Running([Source(MODEL, lambda: Loaded(engine, "abc"))], ()) as server:
        assert server.loaded.wait(30)
        with httpx.Client(base_url=server.url, timeout=20) as http:
            engine.step = panicking
            status, message = told(http, SOUND[0])
            assert (status, "secret" in message, panics) == (500, False, [])
            assert told(http, SOUND[0])[0] == 200


def test_an_interrupt_ends_open_streams_with_an_error(model, tokenizer, caplog):
    engine = Engine(model, tokenizer)
    ask = {"prompt": [20], "max_tokens": 200, "stream": True, "temperature": 1.5}
    ask["logit_bias"] = {str(token): -100 for token in engine.stop_ids}
    step = engine.step

    def slow():
        time.sleep(0.05)
        return step()

    engine.step = slow
    with Running([Source(MODEL, lambda: Loaded(engine, "abc"))], ()) as server:
        assert server.loaded.wait(30)
        with (
            httpx.Client(base_url=server.url, timeout=20) as http,
            http.stream("POST", COMPLETIONS, json=ask) as answer,
        ):
            lines = answer.iter_lines()
            next(lines)
            server.server.handle_exit(signal.SIGINT, None)
            assert "the server is stopping" in "".join(lines)
        server.thread.join(20)
        assert not server.thread.is_alive() and "Traceback" not in caplog.text
