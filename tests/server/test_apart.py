"""What requests do to each other, and must not: prompts are found by their owners alone, structures hold up
nobody, and what failed inside stays inside."""

from __future__ import annotations

import threading

import httpx
import pytest
from tests.server.running import held

from modelwright.inference import trial
from modelwright.inference.engine import Engine
from modelwright.inference.structured import USES

CHAT = "/v1/chat/completions"
PROMPT = "The capital of France is Paris. Die Hauptstadt von Österreich ist Wien. " * 4
ASK = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 2, "seed": 1}
KEYS = ("first-key-of-the-server", "second-key-of-the-server")
STRUCTURED = {"structured_outputs": {"regex": "[ab]{1,3}"}, "max_tokens": 8}


def cached(http: httpx.Client, key: str, **more) -> int:
    answer = http.post(CHAT, json=ASK | more, headers={"Authorization": f"Bearer {key}"})
    assert answer.status_code == 200, answer.text
    return answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]


def test_nobody_learns_what_others_have_asked(model, tokenizer, start):
    with start(Engine(model, tokenizer), api_keys=KEYS) as url, httpx.Client(base_url=url) as http:
        assert cached(http, KEYS[0]) == 0 and cached(http, KEYS[0]) > 0
        assert cached(http, KEYS[1]) == 0 and cached(http, KEYS[1]) > 0
        assert cached(http, KEYS[0], cache_salt="a tenant") == 0
        assert cached(http, KEYS[0], cache_salt="a tenant") > 0
        assert cached(http, KEYS[1], cache_salt="a tenant") == 0


def test_prompts_are_shared_on_purpose(model, tokenizer, start):
    engine = Engine(model, tokenizer)
    with start(engine, api_keys=KEYS, share_cache=True) as url, httpx.Client(base_url=url) as http:
        assert cached(http, KEYS[0]) == 0 and cached(http, KEYS[1]) > 0
        assert cached(http, KEYS[1], cache_salt="a tenant") == 0


@pytest.fixture
def compilations(monkeypatch):
    """The threads in which something is compiled."""
    names: list[str] = []
    for name in ("try_out", "compiled"):
        own = getattr(trial, name)

        def watched(*arguments, own=own):
            names.append(threading.current_thread().name)
            return own(*arguments)

        monkeypatch.setattr(trial, name, watched)
    return names


def test_structures_are_compiled_in_a_thread_of_their_own(model, tokenizer, start, compilations):
    with start(Engine(model, tokenizer, max_slots=8)) as url, httpx.Client(base_url=url) as http:
        for _ in range(2):  # the second time it wears out
            answer = http.post(CHAT, json=ASK | STRUCTURED | {"n": USES - 2})
            assert answer.status_code == 200, answer.text
            assert set(answer.json()["choices"][0]["message"]["content"]) <= {"a", "b"}
    assert len(compilations) == 3 and {name.split("_")[0] for name in compilations} == {"structures"}


def test_a_full_queue_compiles_nothing(model, tokenizer, start, compilations):
    engine = Engine(model, tokenizer, max_slots=2)
    go = held(engine)
    with start(engine, queue_limit=1) as url, httpx.Client(base_url=url, timeout=30) as http:
        go.clear()
        with http.stream("POST", CHAT, json=ASK | {"stream": True}):
            assert http.post(CHAT, json=ASK | STRUCTURED).status_code == 429
            assert compilations == []
            go.set()
        refused = {"structured_outputs": {"regex": "("}}
        for more in (refused, refused | {"stream": True}):
            wrong = http.post(CHAT, json=ASK | more)
            while wrong.status_code == 429:  # the stream's place is not free yet
                wrong = http.post(CHAT, json=ASK | more)
            assert wrong.status_code == 400 and "cannot be enforced" in wrong.text
        assert http.post(CHAT, json=ASK).status_code == 200, "what was refused gave its place back"


@pytest.mark.parametrize("stream", [False, True])
def test_what_fails_on_the_way_in_is_not_told(model, tokenizer, start, stream, caplog):
    engine = Engine(model, tokenizer)
    submit, failures = engine.submit, iter([RuntimeError("secret detail")])

    def failing(*arguments, **settings):
        for failure in failures:
            raise failure
        return submit(*arguments, **settings)

    engine.submit = failing  # type: ignore[method-assign]
    with start(engine, queue_limit=1) as url, httpx.Client(base_url=url) as http:
        answer = http.post(CHAT, json=ASK | {"stream": stream})
        assert "engine_failed" in answer.text and "secret" not in answer.text
        assert answer.status_code == (200 if stream else 500)
        assert "secret detail" in caplog.text
        assert http.post(CHAT, json=ASK).status_code == 200


def test_the_end_of_an_answer_is_put_off_or_passed_over(model, tokenizer, start):
    """As load generators ask it, so that all answers are of one length."""
    engine = Engine(model, tokenizer)
    with start(engine) as url, httpx.Client(base_url=url) as http:
        ask = ASK | {"max_tokens": 40, "temperature": 0}
        body = http.post(CHAT, json=ask | {"ignore_eos": True}).json()
        assert body["usage"]["completion_tokens"] == 40
        body = http.post(CHAT, json=ask | {"min_tokens": 40}).json()
        assert body["usage"]["completion_tokens"] == 40
        wrong = http.post(CHAT, json=ask | {"min_tokens": 41})
        assert wrong.status_code == 400 and "min_tokens is 41" in wrong.text


@pytest.mark.parametrize("stream", [False, True])
def test_the_token_that_ends_an_answer_is_no_part_of_its_log_probabilities(model, tokenizer, start, stream):
    engine = Engine(model, tokenizer, stop_ids=())
    ask = ASK | {"max_tokens": 6, "temperature": 0, "logprobs": True}
    with start(engine) as url, httpx.Client(base_url=url) as http:
        ids = [
            entry["bytes"] for entry in http.post(CHAT, json=ask).json()["choices"][0]["logprobs"]["content"]
        ]
        known = {bytes(tokenizer.token_bytes(token)): token for token in range(tokenizer.vocab_size)}
        end = known[bytes(ids[3])]
        first = [known[bytes(each)] for each in ids].index(end)
        answer = http.post(CHAT, json=ask | {"stop_token_ids": [end], "stream": stream})
        events = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")]
        bodies = [httpx.Response(200, text=event).json() for event in events] if stream else [answer.json()]
        told = [
            entry["bytes"]
            for body in bodies
            for choice in body["choices"]
            if choice["logprobs"]
            for entry in choice["logprobs"]["content"]
        ]
        assert told == ids[:first]
