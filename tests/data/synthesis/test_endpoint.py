"""A stranger behind HTTP: whatever it sends, the work goes on or ends with words, in time."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelwright.base.errors import ConfigError, UserError
from modelwright.base.schema import Answer, Conversation, Message, Prompt, Sampling
from modelwright.data.synthesis import endpoint, http
from modelwright.data.synthesis.endpoint import Endpoint, EndpointConfig, pause_before, read_key, retry_after
from modelwright.data.synthesis.journal import Journal
from modelwright.data.synthesis.replies import SHOWN, Hidden, NoCompletion, answer_of, problem_of

KEY = "sk-secret-0123456789"
Serve = Callable[["Handler", dict[str, Any]], None]


class Handler(BaseHTTPRequestHandler):
    """Gives each request to the test's function."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Read the request, note it, and let the test answer."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server: Any = self.server
        with server.lock:
            server.seen.append((self.path, dict(self.headers), body))
        try:
            server.serve(self, body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def reply(self, status: int, content: Any, **headers: str) -> None:
        """A whole reply."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@contextmanager
def served(serve: Serve) -> Iterator[tuple[str, list[tuple[str, dict[str, str], dict[str, Any]]]]]:
    """The base address of a server, and what it was asked."""
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.serve, server.seen, server.lock, server.daemon_threads = serve, [], threading.Lock(), True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", server.seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def completion(text: Any, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {
        "model": "m-2",
        "choices": [choice],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2},
        **more,
    }


def asked(body: dict[str, Any]) -> str:
    return body["messages"][-1]["content"]


def prompts(*texts: str, **sampling: Any) -> list[Prompt]:
    return [
        Prompt(
            conversation=Conversation(messages=(Message(role="user", content=text),)),
            sampling=Sampling(**{"seed": 5, "max_tokens": 7, **sampling}),
        )
        for text in texts
    ]


def writer(url: str, *, tell: Callable[[str], None] = lambda _: None, **settings: Any) -> Endpoint:
    few = {"silence": 5.0, "deadline": 5.0, "retries": 2, "key_from": "THE_KEY", "model": "m"}
    config = EndpointConfig.model_validate({"url": url, **few, **settings})
    return Endpoint(config, {"THE_KEY": f" {KEY}\n"}, tell)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses a hundred times shorter."""
    real = endpoint.pause_before
    monkeypatch.setattr(endpoint, "pause_before", lambda attempt, wished: real(attempt, wished) / 100)
    monkeypatch.setattr(http, "LOOK", 0.02)


def test_a_request_says_what_the_protocol_wants() -> None:
    with served(lambda handler, body: handler.reply(200, completion(f"<{asked(body)}>"))) as (url, seen):
        who = writer(url, body={"max_tokens": None, "max_completion_tokens": 9})
        found = dict(who.write(prompts("a", "b", top_k=4, stop=("\n",))))
        (only,) = dict(writer(url).write(prompts("c"))).values()
    assert {place: answer.text for place, answer in found.items()} == {0: "<a>", 1: "<b>"}
    assert (only.model, only.finish_reason, only.prompt_tokens, only.tokens) == ("m-2", "stop", 3, 2)
    assert only.seconds > 0 and not only.fault
    path, headers, body = seen[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == f"Bearer {KEY}"
    assert body == {
        "model": "m", "messages": [{"role": "user", "content": asked(body)}], "temperature": 0.0,
        "top_p": 1.0, "top_k": 4, "seed": 5, "stop": ["\n"], "max_completion_tokens": 9,
    }  # fmt: skip
    assert writer(url).name == f"m at {url}" and who.name.startswith(f"m at {url}, body ")


def test_other_settings_of_the_body_ask_anew(tmp_path: Path) -> None:
    with served(lambda handler, body: handler.reply(200, completion("ok"))) as (url, seen):
        for body, requests in (({}, 1), ({"a": 1, "b": [2]}, 2), ({"b": [2], "a": 1}, 2), ({"a": 2}, 3)):
            journal = Journal(tmp_path / "answers.jsonl", writer(url, body=body))
            list(journal.answers(prompts("a")))
            journal.close()
            assert len(seen) == requests
    for name in ("model", "messages"):
        with pytest.raises(ValueError, match=f"body[\\s\\S]*received {name}"):
            EndpointConfig.model_validate({"url": url, "model": "m", "body": {name: None}})


def test_what_may_pass_is_tried_again_and_retry_after_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float | None] = []

    def note(attempt: int, wished: float | None) -> float:
        waited.append(wished)
        return 0.0

    monkeypatch.setattr(endpoint, "pause_before", note)
    tries = {"busy": [429, 503], "cut": [0]}

    def serve(handler: Handler, body: dict[str, Any]) -> None:
        left = tries.get(asked(body), [])
        if not left:
            handler.reply(200, completion("ok"))
        elif status := left.pop(0):
            handler.reply(status, {"error": {"message": "wait"}}, Retry_After="7")
        else:
            handler.connection.close()

    told: list[str] = []
    with served(serve) as (url, seen):
        found = dict(writer(url, tell=told.append, concurrency=1).write(prompts("busy", "cut", "fine")))
    (once,) = told
    assert "status 429: wait; trying again, 2 times at most" in once
    assert [found[place].text for place in range(3)] == ["ok"] * 3
    assert waited == [7.0, 7.0, None] and len(seen) == 6


def bad_replies() -> dict[str, bytes]:
    deep = b'{"choices": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    wrong: list[Any] = [
        {}, [], 3, None, {"choices": []}, {"choices": {}}, {"choices": [3]}, {"choices": [{}]},
        {"choices": [{"message": {"content": None, "refusal": "no"}}]},
        {"choices": [{"message": {"content": [{"type": "text", "text": "x"}]}}]},
    ]  # fmt: skip
    named = {f"wrong {n}": json.dumps(each).encode() for n, each in enumerate(wrong)}
    return named | {
        "deep": deep,
        "garbage": b"\xff\xfe<html>" + KEY.encode(),
        "number": b'{"choices": ' + b"9" * 5000 + b"}",
        "half": json.dumps(completion("x")).encode()[:-9],
    }


def test_garbage_is_a_fault_of_its_prompt_and_of_no_other() -> None:
    bad = bad_replies()

    def serve(handler: Handler, body: dict[str, Any]) -> None:
        handler.reply(200, bad.get(asked(body)) or completion("good"))

    names = ["good", *(name for each in bad for name in (each, "good"))]
    with served(serve) as (url, _):
        found = dict(writer(url, concurrency=1).write(prompts(*names)))
    assert {found[place].text for place in range(0, len(names), 2)} == {"good"}
    faults = [found[place].fault for place in range(1, len(names), 2)]
    assert all(faults) and all(len(fault) < 400 and fault.isprintable() for fault in faults)
    assert KEY not in "".join(faults)


def endless(handler: Handler, body: dict[str, Any]) -> None:
    """Chunks for ever."""
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    while True:
        handler.wfile.write(b"10000\r\n" + b" " * 0x10000 + b"\r\n")


def dripping(handler: Handler, body: dict[str, Any]) -> None:
    """A letter every now and then, and the connection ends with the reply."""
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    for _ in range(2000):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.01)


def dripping_headers(handler: Handler, body: dict[str, Any]) -> None:
    """The status line, and then headers without end, a letter at a time."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
    for _ in range(2000):
        handler.wfile.write(b"x")
        handler.wfile.flush()
        time.sleep(0.01)


def silent(handler: Handler, body: dict[str, Any]) -> None:
    """Nothing at all."""
    time.sleep(3)
    handler.close_connection = True


def oversized(handler: Handler, body: dict[str, Any]) -> None:
    """More than anybody writes."""
    handler.reply(200, completion("x" * (http.LARGEST + 10)))


def broken_off(handler: Handler, body: dict[str, Any]) -> None:
    """Fewer bytes than it says."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(json.dumps(completion("x")).encode())
    handler.close_connection = True


def no_http(handler: Handler, body: dict[str, Any]) -> None:
    """Something else."""
    handler.wfile.write(b"SSH-2.0-nobody\r\n\r\n")
    handler.close_connection = True


@pytest.mark.parametrize(
    "serve",
    [endless, dripping, dripping_headers, silent, oversized, broken_off, no_http],
    ids=lambda serve: serve.__name__,
)
def test_no_reply_takes_longer_or_more_than_it_may(serve: Serve) -> None:
    begun = time.monotonic()
    with served(serve) as (url, _), pytest.raises(UserError, match="2 prompts in a row got no answer"):
        list(writer(url, deadline=0.5, silence=0.4, retries=0, concurrency=2).write(prompts("a", "b")))
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "THE_KEY"),
        (402, "THE_KEY"),
        (404, "ends where"),
        (302, "leads elsewhere"),
        (307, "leads elsewhere"),
    ],
)
def test_what_is_hopeless_ends_at_once_and_tells_no_key(status: int, words: str) -> None:
    elsewhere: list[Any] = []
    with served(lambda handler, body: elsewhere.append(body)) as (other, _):

        def serve(handler: Handler, body: dict[str, Any]) -> None:
            handler.reply(
                status, {"error": {"message": f"bad key {KEY}"}}, Location=f"{other}/chat/completions"
            )

        with served(serve) as (url, seen), pytest.raises(UserError, match=words) as said:
            list(writer(url, concurrency=1).write(prompts(*"abcdefgh")))
    assert KEY not in str(said.value) and not elsewhere
    assert len(seen) <= 4, "of eight: a busy machine sends one or two before the first answer is read"


def test_one_refused_prompt_ends_nobody_once_others_were_answered() -> None:
    def serve(handler: Handler, body: dict[str, Any]) -> None:
        bad = asked(body) in ("x", "y")
        handler.reply(
            400 if asked(body) == "x" else 403 if bad else 200, completion("ok") if not bad else b"no"
        )

    with served(serve) as (url, _):
        found = dict(writer(url, concurrency=1).write(prompts("a", "x", "y", "b")))
    assert [bool(found[place].fault) for place in range(4)] == [False, True, True, False]
    assert "status 400" in found[1].fault


@pytest.mark.parametrize(("status", "more"), [(401, 0), (402, 0), (403, endpoint.IN_A_ROW - 1)])
def test_a_key_that_is_refused_later_ends_the_work_and_the_next_run_asks_the_rest(
    status: int, more: int, tmp_path: Path
) -> None:
    seen_all: list[str] = []
    is_paid = False

    def serve(handler: Handler, body: dict[str, Any]) -> None:
        seen_all.append(asked(body))
        good = is_paid or len(seen_all) <= 3
        handler.reply(200 if good else status, completion("ok") if good else {"error": {"message": "no"}})

    wanted = prompts(*map(str, range(30)))
    with served(serve) as (url, seen):
        journal = Journal(tmp_path / "answers.jsonl", writer(url, concurrency=1))
        with pytest.raises(UserError, match=rf"answers {status}: no.*THE_KEY.*same command again"):
            list(journal.answers(wanted))
        journal.close()
        assert len(journal) == 3 and len(seen) <= 3 + 1 + more + 1, "one may be open when the end is known"
        is_paid, before = True, len(seen)
        journal = Journal(tmp_path / "answers.jsonl", writer(url))
        assert {answer.text for answer in dict(journal.answers(wanted)).values()} == {"ok"}
        journal.close()
        assert {asked(body) for _, _, body in seen[before:]} == set(map(str, range(3, 30)))


def test_where_nobody_is_there_the_answers_so_far_are_kept() -> None:
    served_so_far: list[str] = []

    def serve(handler: Handler, body: dict[str, Any]) -> None:
        served_so_far.append(asked(body))
        handler.reply(200 if len(served_so_far) <= 3 else 500, completion("ok"))

    found: dict[int, Answer] = {}
    with served(serve) as (url, _), pytest.raises(UserError, match="give the same command again"):
        for place, answer in writer(url, concurrency=1, retries=0).write(prompts(*map(str, range(30)))):
            found[place] = answer
    assert sum(not answer.fault for answer in found.values()) == 3
    assert len(served_so_far) <= 3 + endpoint.IN_A_ROW + 1, "the rest is not even tried"
    with pytest.raises(UserError, match="in a row"):
        list(writer("http://127.0.0.1:9/v1", retries=0).write(prompts("a")))


def test_a_page_in_the_place_of_a_server_ends_the_work() -> None:
    def page(handler: Handler, body: dict[str, Any]) -> None:
        handler.reply(200, b"<html>Log in, please</html>")

    with served(page) as (url, seen), pytest.raises(UserError, match="Log in, please"):
        list(writer(url, concurrency=1).write(prompts(*map(str, range(50)))))
    assert len(seen) <= endpoint.IN_A_ROW + 1


def test_prompts_that_are_refused_end_nothing_even_where_no_other_is_left() -> None:
    with served(lambda handler, _: handler.reply(403, {"error": {"message": "flagged"}})) as (url, _):
        found = dict(writer(url).write(prompts(*map(str, range(12)))))
    assert len(found) == 12 and all("flagged" in answer.fault for answer in found.values())


def test_giving_up_leaves_nothing_open() -> None:
    def serve(handler: Handler, body: dict[str, Any]) -> None:
        time.sleep(0 if asked(body) == "first" else 2)
        handler.reply(200, completion("ok"))

    with served(serve) as (url, seen):
        answers = writer(url, concurrency=2).write(prompts("first", *map(str, range(20))))
        assert next(answers)[1].text == "ok"
        begun = time.monotonic()
        answers.close()  # type: ignore[attr-defined]
        assert time.monotonic() - begun < 1
        time.sleep(0.2)
        assert len(seen) <= 4


@pytest.mark.parametrize(
    "url",
    ["ftp://host/v1", "host/v1", "https://", "https://u:p@host/v1", "https://host/v1?key=1", "https://host/v1#x",
     "https://host:port/v1", "https://ho st/v1", "https://host/v1\r\nX: y"],
)  # fmt: skip
def test_an_address_is_an_address_and_nothing_more(url: str) -> None:
    with pytest.raises(ValueError, match=r"expected an address|[Pp]ort"):
        EndpointConfig(url=url)


def test_a_key_is_there_and_is_not_sent_in_the_clear() -> None:
    config = EndpointConfig(url="https://host/v1", model="m", key_from="K")
    assert read_key(config, {"K": f"{KEY}\n"}) == KEY
    for environment in ({}, {"K": " "}, {"K": "sk-\x07"}, {"K": "sk-a\nb"}):
        with pytest.raises(ConfigError, match="variable K") as said:
            read_key(config, environment)
        assert "sk-" not in str(said.value)
    plain = config.model_copy(update={"url": "http://elsewhere/v1"})
    with pytest.raises(ConfigError, match="https"):
        read_key(plain, {"K": KEY})
    assert read_key(plain.model_copy(update={"insecure": True}), {"K": KEY}) == KEY
    with pytest.raises(ConfigError, match="needs url"):
        Endpoint(EndpointConfig())


@given(st.integers(0, 30), st.one_of(st.none(), st.floats(0, 1e9)))
def test_pauses_grow_and_end(attempt: int, wished: float | None) -> None:
    pause = endpoint_pause(attempt, wished)
    assert 0 < pause <= endpoint.LONGEST_WAIT
    assert pause >= min(wished or 0.0, endpoint.LONGEST_WAIT)


endpoint_pause = pause_before


@given(st.text())
def test_retry_after_is_a_time_or_nothing(text: str) -> None:
    found = retry_after(text)
    assert found is None or found >= 0


def test_retry_after_reads_seconds_and_dates() -> None:
    assert retry_after("12") == 12.0
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert (retry_after("Wed, 21 Oct 2065 07:28:00 GMT") or 0) > 1e8


@given(st.binary(max_size=300))
def test_no_bytes_do_harm(body: bytes) -> None:
    with pytest.raises(NoCompletion):
        answer_of(body, Hidden(KEY), 1.0)
    assert problem_of(body, Hidden(KEY)).isprintable()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, JSON, JSON, JSON)
def test_any_completion_can_be_written_down(text: Any, reason: Any, usage: Any, model: Any) -> None:
    body = completion(text, usage=usage, model=model)
    body["choices"][0]["finish_reason"] = reason
    body["choices"][0]["message"]["reasoning_content"] = model
    found = answer_of(json.dumps(body).encode(), Hidden(KEY), 1.0)
    assert bool(found.fault) == (not isinstance(text, str))
    for said in (found.text, found.reasoning, found.model, found.finish_reason, found.fault):
        said.encode("utf-8")
    counts: Sequence[int | None] = (found.tokens, found.prompt_tokens)
    assert all(count is None or count >= 0 for count in counts)


def test_an_answer_may_be_silent_as_long_as_it_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[tuple[float, float]] = []

    def note(*_: Any, silence: float, deadline: float, stop: threading.Event) -> http.Reply:
        heard.append((silence, deadline))
        return http.Reply(200, {}, json.dumps(completion("ok")).encode())

    monkeypatch.setattr(endpoint, "post", note)
    for settings in ({"silence": None, "deadline": 900.0}, {"silence": 3.0, "deadline": 900.0}):
        list(writer("http://127.0.0.1:9/v1", **settings).write(prompts("a")))
    assert heard == [(900.0, 900.0), (3.0, 900.0)] and EndpointConfig().silence is None


def test_a_reply_without_text_is_counted(tmp_path: Path) -> None:
    with served(lambda handler, body: handler.reply(200, completion(None))) as (url, _):
        for runs in (1, 2):
            journal = Journal(tmp_path / "answers.jsonl", writer(url))
            (answer,) = dict(journal.answers(prompts("a"))).values()
            journal.close()
            assert answer.fault and (answer.prompt_tokens, answer.tokens) == (3, 2)
            spent = (journal.prompt_tokens, journal.tokens)
            assert spent == (3 * runs, 2 * runs), "what a session before this one paid in vain is paid"


def ways_to_echo(key: str, before: int) -> list[bytes]:
    """Raw replies with the key after `before` letters: in names, messages, no JSON, no HTTP."""
    echo = "x" * before + key
    named = completion("ok", model=echo)
    named["choices"][0]["finish_reason"] = echo
    refusal = {"choices": [{"message": {"content": None, "refusal": echo}}]}
    bodies = [(200, named), (200, refusal), (400, {"error": {"message": echo}}), (400, [echo]), (503, echo)]
    raw = [(status, json.dumps(body).encode()) for status, body in bodies]
    by_number = "".join(f"\\u{ord(letter):04X}" for letter in key)
    raw += [
        (400, echo.encode()),
        (400, b'["' + b"x" * before + by_number.encode()),
        (200, echo.encode() * 50),
    ]
    return [
        *(b"HTTP/1.1 %d S\r\nContent-Length: %d\r\n\r\n" % (status, len(b)) + b for status, b in raw),
        f"{echo}\r\n\r\n".encode(),
        f"HTTP/1.1 {echo}\r\n\r\n".encode(),
    ]


@pytest.mark.parametrize("key", [KEY, 'sk-"a\\b/c+d.e(f'])
def test_a_key_that_is_sent_back_where_texts_are_cut_is_hidden_whole(key: str, tmp_path: Path) -> None:
    cuts = [SHOWN - n for n in (0, 1, 5, 9, 14, 25, 40)] + [10 * SHOWN - 9]
    ways = [way for before in cuts for way in ways_to_echo(key, before)]

    def serve(handler: Handler, body: dict[str, Any]) -> None:
        handler.wfile.write(ways[int(asked(body))])
        handler.close_connection = True

    errors: list[str] = []
    with served(serve) as (url, seen):
        config = EndpointConfig(url=url, model="m", key_from="K", retries=0)
        journal = Journal(tmp_path / "answers.jsonl", Endpoint(config, {"K": key}))
        for number in range(len(ways)):
            try:
                list(journal.answers(prompts(str(number))))
            except UserError as error:  # a prompt alone to which nobody replies ends the work
                errors.append(str(error))
        journal.close()
    assert len(seen) == len(ways) and errors and len(journal)
    told = (tmp_path / "answers.jsonl").read_text() + "".join(errors)
    assert "sk-" not in told and "u0073" not in told and "[key]" in told


def test_half_a_letter_and_a_key_do_not_come_through() -> None:
    body = (
        b'{"choices": [{"message": {"content": "\\ud83d ' + KEY.encode() + b' \\u0073k-secret-0123456789"}}]}'
    )
    found = answer_of(body, Hidden(KEY), 1.0)
    assert found.text == "? [key] [key]"
