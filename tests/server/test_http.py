"""What goes over the wire: refusals by the letter, limits, cancellation, and the guards."""

from __future__ import annotations

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from modelwright.base.errors import ConfigError
from modelwright.inference.engine import Engine
from modelwright.server.guards import Access

ASK = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
CHAT = "/v1/chat/completions"
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
MADE = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}


def error_of(response: httpx.Response) -> dict:
    body = response.json()
    assert list(body) == ["error"] and set(body["error"]) == {"message", "type", "param", "code"}
    return body["error"]


def test_a_stream_is_server_sent_events_that_end_with_done(http):
    with http.stream("POST", CHAT, json=ASK | {"stream": True}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines) and lines[-1] == "data: [DONE]"
    chunks = [json.loads(line[6:]) for line in lines[:-1]]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[-1]["choices"][0]["finish_reason"] in ("stop", "length")


@pytest.mark.parametrize(
    ("more", "param", "code"),
    [
        ({"best_of": 2}, "best_of", "unsupported_parameter"),
        ({"functions": [{"name": "f"}]}, "functions", "unsupported_parameter"),
        ({"guided_json": {"type": "object"}}, "guided_json", "unsupported_parameter"),
        ({"min_tokens": -1}, "min_tokens", "invalid_value"),
        ({"store": True}, "store", "unsupported_parameter"),
        ({"service_tier": "flex"}, "service_tier", "unsupported_parameter"),
        ({"mirostat": 2}, "mirostat", "unsupported_parameter"),
        ({"n_predict": 9}, "n_predict", "unknown_parameter"),
        ({"options": {"seed": 1}}, "options", "unknown_parameter"),
        ({"temprature": 0}, "temprature", "unknown_parameter"),
        ({"x" * 200: 0}, "x" * 80, "unknown_parameter"),
        (
            {"chat_template_kwargs": {"enable_thinking": False}},
            "chat_template_kwargs.enable_thinking",
            "unsupported_parameter",
        ),
        (
            {"chat_template_kwargs": {"messages": []}},
            "chat_template_kwargs.messages",
            "unsupported_parameter",
        ),
        ({"include_stop_str_in_output": True}, "include_stop_str_in_output", "unsupported_parameter"),
        ({"continue_final_message": True}, "continue_final_message", "unsupported_parameter"),
        ({"structured_outputs": {"choise": ["a"]}}, "structured_outputs.choise", "invalid_value"),
        ({"tools": [{"type": "function"}]}, "tools.0.function", "invalid_value"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type", "invalid_value"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"tools": [TOOL, TOOL]}, "tools", "invalid_value"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "other"}}},
            "tool_choice",
            "invalid_value",
        ),
        (
            {"tools": [TOOL], "response_format": {"type": "json_object"}},
            "response_format",
            "unsupported_parameter",
        ),
        ({"response_format": {"type": "xml"}}, "response_format", "invalid_value"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "invalid_value"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
            "invalid_value",
        ),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs", "invalid_value"),
        ({"logit_bias": {"five": 1}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"5": 101}}, "logit_bias", "invalid_value"),
        ({"presence_penalty": 2.5}, "presence_penalty", "invalid_value"),
        ({"repetition_penalty": 0}, "repetition_penalty", "invalid_value"),
        ({"repetition_penalty": 5e-324}, "repetition_penalty", "invalid_value"),
        ({"temperature": "warm"}, "temperature", "invalid_value"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"n": 0}, "n", "invalid_value"),
        ({"n": 65}, "n", "invalid_value"),
        ({"seed": 1.5}, "seed", "invalid_value"),
        ({"stop": [""]}, "stop.0", "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages.0.role", "invalid_value"),
        (
            {"messages": [{"role": "user", "content": "x", "tool_calls": [MADE]}]},
            "messages.0.tool_calls",
            "invalid_value",
        ),
        (
            {"messages": [{"role": "user", "content": "x", "tool_call_id": "1"}]},
            "messages.0.tool_call_id",
            "invalid_value",
        ),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content", "invalid_value"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages.0.content.0.type",
            "invalid_value",
        ),
        (
            {"messages": [{"role": "user", "content": "x", "name": "Ann"}]},
            "messages.0.name",
            "unsupported_parameter",
        ),
        ({"top_logprobs": 3}, "top_logprobs", None),
        ({"stream_options": {"include_usage": True}}, "stream_options", None),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(http, more, param, code):
    response = http.post(CHAT, json=ASK | more)
    error = error_of(response)
    assert response.status_code == 400 and error["type"] == "invalid_request_error"
    assert (error["param"], error["code"]) == (param, code)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"temprature": 0}, "Did you mean 'temperature'?"),
        ({"n_predict": 9}, "Here it is 'max_tokens'."),
        ({"keep_alive": "5m"}, "a model stays loaded"),
        ({"temperature": 3}, "less than or equal to 2 (received 3)"),
        ({"stop": ["a" * 300]}, '"' + "a" * 79 + "...)"),
        ({"min_tokens": 5}, "min_tokens is 5, expected 0 to max_tokens (4)"),
    ],
)
def test_refusals_say_what_was_received_and_what_is_right(http, more, words):
    assert words in error_of(http.post(CHAT, json=ASK | more))["message"]


def test_neutral_values_are_taken(http):
    more = {"presence_penalty": 0, "tools": [], "response_format": {"type": "text"}, "user": "u"}
    more |= {"metadata": {"a": "b"}, "store": False, "service_tier": "auto", "mirostat": 0, "novel": None}
    assert http.post(CHAT, json=ASK | more).status_code == 200
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    in_parts = http.post(
        CHAT, json=ASK | {"temperature": 0, "messages": [{"role": "user", "content": parts}]}
    )
    plain = http.post(CHAT, json=ASK | {"temperature": 0})
    assert in_parts.json()["choices"] == plain.json()["choices"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"messages": "\xff"}', b'{"messages": [{"role": "user", "content": "\\ud800"}]}'],
)
def test_bodies_that_are_no_request(http, body):
    response = http.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400 and error_of(response)["code"] == "invalid_value"


def test_other_media_types_are_refused(http):
    """A form on a web page can send text/plain without asking first."""
    response = http.post(CHAT, content=json.dumps(ASK), headers={"content-type": "text/plain"})
    assert response.status_code == 415 and error_of(response)["code"] == "unsupported_media_type"


def test_unknown_models_paths_and_methods(http):
    wrong = http.post(CHAT, json=ASK | {"model": "gpt-4"})
    assert wrong.status_code == 404 and error_of(wrong)["code"] == "model_not_found"
    nowhere = http.post("/chat/completions", json=ASK)  # a client whose base_url lacks /v1
    assert nowhere.status_code == 404
    assert "POST /chat/completions is no endpoint here; GET / lists them" in error_of(nowhere)["message"]
    assert http.get(CHAT).status_code == 405 and error_of(http.get(CHAT))


def test_the_front_page_says_what_this_is(http):
    answer = http.get("/", headers={"accept": "application/json"}).json()
    assert answer["models"] == ["tiny"] and "OpenAI" in answer["about"]
    for endpoint in answer["endpoints"]:
        method, path = endpoint.replace("{id}", "tiny").split(" ")
        assert http.request(method, path).status_code in (200, 415), endpoint
    page = http.get("/", headers={"accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert page.headers["content-type"].startswith("text/html") and "<b>tiny</b>" in page.text
    assert all(endpoint in page.text for endpoint in answer["endpoints"])
    assert not any(tag in page.text for tag in ("<script", "<style", "style="))
    assert page.headers["content-security-policy"] == http.get("/health").headers["content-security-policy"]
    assert http.post("/").status_code == 405


def test_a_prompt_that_is_too_long_is_refused_with_numbers(http):
    for stream in (False, True):
        response = http.post("/v1/completions", json={"prompt": [5] * 4096, "stream": stream})
        error = error_of(response)
        assert response.status_code == 400 and error["code"] == "context_length_exceeded"
        assert "4096 tokens" in error["message"] and "4095" in error["message"]
    outside = error_of(http.post("/v1/completions", json={"prompt": [5, 320]}))
    assert "between 0 and 319" in outside["message"] and outside["param"] == "prompt"


def test_bodies_are_bounded_while_they_arrive(http, address):
    def endless():
        for _ in range(100):
            yield b" " * 1000

    headers = {"content-type": "application/json"}
    announced = http.post(CHAT, content=b" " * 20_001, headers=headers)
    assert announced.status_code == 413 and error_of(announced)["code"] == "request_too_large"
    with httpx.Client(base_url=address) as other:
        try:
            chunked = other.post(CHAT, content=endless(), headers=headers)
        except (httpx.WriteError, httpx.ReadError):
            return  # the server hung up on the rest, which is as good
        assert chunked.status_code == 413


def test_the_queue_is_bounded_and_cancelling_frees_it(model, tokenizer, start):
    """Streams that are given up, and answers nobody waits for, make room at once."""
    engine = Engine(model, tokenizer, max_slots=2, stop_ids=())
    long = ASK | {"max_tokens": 4000}
    with start(engine, queue_limit=2) as url, httpx.Client(base_url=url, timeout=30) as http:
        with http.stream("POST", CHAT, json=long | {"stream": True, "n": 2}) as streaming:
            assert streaming.status_code == 200
            full = http.post(CHAT, json=ASK)
            assert full.status_code == 429 and error_of(full)["code"] == "queue_full"
            assert full.headers["retry-after"] == "1"
            assert http.post(CHAT, json=ASK | {"n": 3}).status_code == 400
        wait_until_free(http)
        port = int(url.rsplit(":", 1)[1])
        with socket.create_connection(("127.0.0.1", port)) as raw:
            body = json.dumps(long | {"n": 2}).encode()
            head = f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
            raw.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            for _ in range(1000):
                if len(engine._scheduler.running) == 2:
                    break
                http.get("/health")
            assert http.post(CHAT, json=ASK).status_code == 429
        wait_until_free(http)
    assert not engine._scheduler.busy


def wait_until_free(http: httpx.Client) -> None:
    """Far sooner than the 4000 tokens would take (the client's time-out bounds it)."""
    for _ in range(200):
        if http.post(CHAT, json=ASK).status_code == 200:
            return
    raise AssertionError("the queue stayed full")


def test_one_failing_request_does_not_end_the_service(model, tokenizer, start, caplog):
    engine = Engine(model, tokenizer)
    healthy, failures = engine.step, iter([RuntimeError("secret detail")])

    def step():
        for failure in failures:
            raise failure
        return healthy()

    engine.step = step  # type: ignore[method-assign]
    with start(engine) as url, httpx.Client(base_url=url) as http:
        broken = http.post(CHAT, json=ASK)
        assert broken.status_code == 500 and "secret" not in broken.text
        assert error_of(broken)["type"] == "server_error"
        assert http.post(CHAT, json=ASK).status_code == 200
        assert http.get("/health").json() == {"status": "ok"}


def test_stopping_the_server_ends_running_streams(model, tokenizer, start):
    engine = Engine(model, tokenizer, stop_ids=())
    begun = threading.Event()

    def read(url):
        got = b""
        with (
            httpx.Client(timeout=30) as http,
            http.stream("POST", url + CHAT, json=ASK | {"max_tokens": 4000, "stream": True}) as stream,
        ):
            try:
                for piece in stream.iter_raw():
                    got += piece
                    begun.set()
            except httpx.RemoteProtocolError:
                pass
        return got

    with ThreadPoolExecutor(1) as pool:
        with start(engine) as url:
            reading = pool.submit(read, url)
            assert begun.wait(30)
        assert reading.result(30)


# --- guards


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1", "localhost:1", "127.0.0.1.evil.example:{port}", ""]
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
def test_other_host_names_are_refused(http, address, host, method):
    port = address.rsplit(":", 1)[1]
    response = http.request(method, "/health", headers={"host": host.format(port=port)})
    assert response.status_code == 403 and error_of(response)["code"] == "host_not_allowed"


@pytest.mark.parametrize("name", ["localhost", "[::1]", "LOCALHOST"])
def test_names_of_this_machine_are_taken(http, address, name):
    host = f"{name}:{address.rsplit(':', 1)[1]}"
    assert http.get("/health", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_other_web_pages_are_refused(http, headers):
    for request in (http.build_request("POST", CHAT, json=ASK), http.build_request("GET", "/v1/models")):
        request.headers.update(headers)
        response = http.send(request)
        assert response.status_code == 403 and error_of(response)["code"] == "origin_not_allowed"
        assert "access-control-allow-origin" not in response.headers


def test_our_own_pages_and_no_page_are_taken(http, address):
    for headers in ({"origin": address, "sec-fetch-site": "same-origin"}, {"sec-fetch-site": "none"}, {}):
        response = http.post(CHAT, json=ASK, headers=headers)
        assert response.status_code == 200 and "access-control-allow-origin" not in response.headers


def test_every_answer_has_security_headers(http):
    answers = [http.get("/health"), http.get("/nothing"), http.post(CHAT, json=ASK)]
    answers.append(http.get("/health", headers={"host": "x"}))
    for response in answers:
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert "server" not in response.headers


def test_keys_and_listed_origins(model, tokenizer, start):
    key, page = "k" * 32, "https://models.example.com"
    with (
        start(Engine(model, tokenizer), api_keys=(key,), origins=(page,)) as url,
        httpx.Client(base_url=url) as http,
    ):
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {key}"}):
            for path in ("/v1/models", "/nothing"):
                refused = http.get(path, headers=headers)
                assert refused.status_code == 401 and error_of(refused)["code"] == "invalid_api_key"
        bearer = {"authorization": f"Bearer {key}"}
        assert http.get("/v1/models", headers=bearer).status_code == 200
        assert http.get("/health").status_code == 200
        for accept in ("text/html", "*/*"):
            strange, known = (http.get("/", headers={"accept": accept} | h) for h in ({}, bearer))
            assert strange.status_code == known.status_code == 200
            assert "tiny" not in strange.text and "tiny" in known.text and "API key" in strange.text
            assert key not in strange.text + known.text
            for foreign in ({"host": "evil.example"}, {"origin": "https://evil.example"}):
                assert http.get("/", headers=bearer | foreign).status_code == 403
        named = http.post(CHAT, json=ASK, headers=bearer | {"origin": page, "host": "models.example.com"})
        assert named.status_code == 200 and named.headers["access-control-allow-origin"] == page
        for other in ("http://models.example.com", "https://models.example.com:8443"):
            refused = http.post(CHAT, json=ASK, headers=bearer | {"origin": other})
            assert refused.status_code == 403 and error_of(refused)["code"] == "origin_not_allowed"
        asked = http.options(CHAT, headers={"origin": page, "access-control-request-method": "POST"})
        assert asked.status_code == 204 and "authorization" in asked.headers["access-control-allow-headers"]


def test_listening_beyond_this_machine_needs_a_key_and_an_origin():
    key, page = "k" * 32, "https://models.example.com"
    for host in ("0.0.0.0", "::", "192.168.1.5", "models.example.com"):
        for settings in ({}, {"api_keys": [key]}, {"origins": [page]}):
            with pytest.raises(ConfigError, match="refusing to listen"):
                Access.of(host, 8000, **settings)
        assert "models.example.com" in Access.of(host, 8000, [key], [page]).hosts
    for host in ("127.0.0.1", "::1", "localhost"):
        assert f"{'[::1]' if host == '::1' else host}:8000" in Access.of(host, 8000).hosts


@pytest.mark.parametrize(
    "origin",
    ["*", "models.example.com", "https://a.example/", "https://*.example", "null", "https://A.example"],
)
def test_inexact_origins_are_refused(origin):
    with pytest.raises(ConfigError, match="exact origin"):
        Access.of("127.0.0.1", 8000, (), [origin])


def test_short_keys_are_refused():
    with pytest.raises(ConfigError, match="key 2 has 5 characters"):
        Access.of("127.0.0.1", 8000, ["k" * 16, "short"])
