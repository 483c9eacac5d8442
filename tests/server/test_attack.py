"""Clients that mean harm or are broken: exact refusals, and the server lives."""

from __future__ import annotations

import contextlib
import json
import socket
import time

import httpx
import pytest
from tests.server.running import wait_for

from modelwright.inference.engine import Engine
from modelwright.server import guards, listen

CHAT = "/v1/chat/completions"
ASK = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
JSON = {"content-type": "application/json"}
EVERYTHING = {"logprobs": True, "top_logprobs": 20}


def nested(depth: int) -> bytes:
    return b'{"messages": ' + b"[" * depth + b"]" * depth + b"}"


@pytest.mark.parametrize(
    "body",
    [
        nested(10),
        nested(9_000),
        b'{"a":' * 3_000 + b"1" + b"}" * 3_000,
        json.dumps({"messages": 5, "extra": json.loads('{"a":' * 150 + "1" + "}" * 150)}).encode(),
        b'{"messages": [], "max_tokens": 1e400}',
        b'{"messages": [], "max_tokens": ' + b"9" * 5_000 + b"}",
        b'{"messages": [], "temperature": NaN}',
        b"\x00\x01\x02",
        b'{"messages": "' + b"\\u0000" * 3_000 + b'"}',
        b"null",
        b'"text"',
    ],
    ids=[
        *("nested", "deep arrays", "deep objects", "deep extra", "1e400", "long number", "NaN", "binary"),
        *("escapes", "null", "string"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/responses", "/v1/embeddings", "/tokenize"])
def test_broken_bodies_are_refused_exactly(http, path, body):
    response = http.post(path, content=body, headers=JSON)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("text", ["a" * 19_000, " " * 19_000, "\n" * 9_000, "é" * 9_000, "\u200d👨" * 2_000])
def test_monotonous_prompts_are_read_in_time(http, text):
    """Tokenizers have bad cases; a prompt as long as a body may be must not be one."""
    began = time.monotonic()
    response = http.post(CHAT, json=ASK | {"messages": [{"role": "user", "content": text}]}, timeout=30)
    assert response.status_code in (200, 400) and time.monotonic() - began < 10
    if response.status_code == 400:
        assert response.json()["error"]["code"] == "context_length_exceeded"


def talk(port: int, data: bytes, *, half_close: bool = False) -> bytes:
    """What the server says to some raw bytes until it hangs up."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as raw:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            raw.sendall(data)
        if half_close:
            raw.shutdown(socket.SHUT_WR)
        got = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := raw.recv(65_536):
                got += piece
        return got


def head(port: int, *more: str, method: str = "POST", path: str = CHAT) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Content-Type: application/json", *more]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


@pytest.fixture
def port(address: str) -> int:
    return int(address.rsplit(":", 1)[1])


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64, 400),  # a TLS handshake
        (b"nonsense\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 10_000, 431),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 100_000, 431),
        (b"GET /" + b"a" * 100_000, 431),
        (b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", 400),
        (b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n", 400),
        (b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, gzip\r\n\r\n", 501),
    ],
    ids=[
        *("TLS", "nonsense", "many headers", "long header", "long path", "two lengths", "negative"),
        "encoding",
    ],
)
def test_what_is_no_http_is_told_so(http, port, data, status):
    answer = talk(port, data)
    top, _, body = answer.partition(b"\r\n\r\n")
    assert top.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"x-content-type-options: nosniff" in top.lower() and b"connection: close" in top.lower()
    assert json.loads(body)["error"]["code"] == "bad_request"
    assert http.get("/health").status_code == 200


def test_half_closed_and_cut_requests(http, port):
    """Who stops sending is taken to have gone."""
    body = json.dumps(ASK).encode()
    whole = head(port, f"Content-Length: {len(body)}") + body
    for data in (
        b"",
        b"PO",
        whole[:40],
        whole[:-5],
        whole,
        head(port, "Transfer-Encoding: chunked") + b"5\r\nab",
    ):
        talk(port, data, half_close=True)
    bad_chunk = head(port, "Transfer-Encoding: chunked") + b"xyz\r\n"
    assert b" 400 " in talk(port, bad_chunk).split(b"\r\n")[0]
    assert http.post(CHAT, json=ASK).status_code == 200


def test_slow_clients_are_given_up(model, tokenizer, start, monkeypatch):
    """A head or a body that drips, and an answer that nobody reads: none holds its connection for long."""
    monkeypatch.setattr(listen, "HEAD_SECONDS", 0.4)
    monkeypatch.setattr(listen, "BODY_SECONDS", -4.5)  # 5 are added
    monkeypatch.setattr(guards, "BODY_SECONDS", 0.3)
    engine = Engine(model, tokenizer, stop_ids=())
    with start(engine) as url, httpx.Client(base_url=url) as http:
        port = int(url.rsplit(":", 1)[1])
        unread = head(port, "Content-Length: 100", path="/nothing") + b"x"
        cases = {
            b"": 408,
            head(port)[:30]: 408,
            head(port, "Content-Length: 100") + b'{"mess': 408,
            unread: 404,
        }
        for data, status in cases.items():
            for dripping in (False, True):
                began = time.monotonic()
                answer = wait_on(port, data, dripping)
                assert time.monotonic() - began < 3
                # Who still sends when the server hangs up may lose its answer (a TCP reset).
                assert answer.startswith(f"HTTP/1.1 {status} ".encode()) or (dripping and not answer)
        assert http.post(CHAT, json=ASK).status_code == 200


def wait_on(port: int, data: bytes, dripping: bool) -> bytes:
    """Send `data`, then perhaps a byte every now and then, for as long as the server listens."""
    got = b""
    with socket.create_connection(("127.0.0.1", port), timeout=0.1) as raw:
        raw.sendall(data)
        for _ in range(100):
            try:
                if dripping:
                    raw.sendall(b"x")
                piece = raw.recv(65_536)
            except TimeoutError:
                continue
            except (BrokenPipeError, ConnectionResetError):
                return got
            if not piece:
                return got
            got += piece
    raise AssertionError("the server never hung up")


def test_an_answer_that_nobody_reads_is_given_up(model, tokenizer, start, monkeypatch):
    monkeypatch.setattr(listen, "READ_SECONDS", 0.3)
    engine = Engine(model, tokenizer, max_slots=64, stop_ids=())
    ask = json.dumps(ASK | {"max_tokens": 4000, "stream": True, "n": 16} | EVERYTHING).encode()
    with start(engine) as url, httpx.Client(base_url=url) as http:
        port = int(url.rsplit(":", 1)[1])
        with socket.socket() as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            raw.connect(("127.0.0.1", port))
            raw.sendall(head(port, f"Content-Length: {len(ask)}") + ask)
            wait_for(lambda: len(engine._scheduler.running) == 16)
            wait_for(lambda: not engine._scheduler.busy)  # far sooner than 64,000 tokens take
        assert http.post(CHAT, json=ASK).status_code == 200


def test_connections_have_a_limit(model, tokenizer, start, monkeypatch):
    monkeypatch.setattr(listen, "MAX_CONNECTIONS", 3)
    with start(Engine(model, tokenizer)) as url:
        port = int(url.rsplit(":", 1)[1])
        with contextlib.ExitStack() as held:
            for _ in range(3):
                held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
            refused = talk(port, b"")
            assert refused.startswith(b"HTTP/1.1 503 ") and b"retry-after: 1" in refused.lower()
        with httpx.Client(base_url=url) as http:
            for _ in range(100):
                with contextlib.suppress(httpx.RemoteProtocolError, httpx.ReadError):
                    if http.get("/health").status_code == 200:
                        return
            raise AssertionError("connections that ended still count")
