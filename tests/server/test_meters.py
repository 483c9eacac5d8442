"""What Prometheus reads."""

from __future__ import annotations

import re
import threading

import httpx
import pytest
from tests.server.running import wait_for

from modelwright.inference.engine import Engine
from modelwright.inference.speculate import Speculation
from modelwright.server.meters import COUNTERS, GAUGES, HISTOGRAMS, Histogram

CHAT = "/v1/chat/completions"
ASK = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 6}
LINE = re.compile(r'^(modelwright:\w+)\{model_name="tiny"(?:,\w+="([^"]+)")?\} (\S+)$')


def read(http: httpx.Client) -> dict[tuple[str, str | None], float]:
    """(name, second label) -> value; every line must be one that Prometheus takes."""
    response = http.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    values: dict[tuple[str, str | None], float] = {}
    for line in response.text.removesuffix("\n").split("\n"):
        if not line.startswith("#"):
            name, label, value = LINE.fullmatch(line).groups()
            assert (name, label) not in values
            values[name.removeprefix("modelwright:"), label] = float(value)
    return values


@pytest.fixture
def served(model, tokenizer, start):
    engine = Engine(model, tokenizer, max_slots=2, stop_ids=())
    with start(engine) as url, httpx.Client(base_url=url, timeout=30) as http:
        yield engine, http


def test_every_metric_is_there_from_the_start(served):
    names = {name for name, _ in read(served[1])}
    assert names >= {*COUNTERS, *GAUGES, "request_success_total"}
    assert {f"{name}_{part}" for name in HISTOGRAMS for part in ("bucket", "sum", "count")} <= names


def test_requests_are_counted(served):
    _, http = served
    usage = [http.post(CHAT, json=ASK | {"seed": seed}).json()["usage"] for seed in range(3)]
    with http.stream("POST", CHAT, json=ASK | {"stream": True}) as stream:
        list(stream.iter_lines())
    values = read(http)
    assert values["request_success_total", "length"] == 4 and values["request_success_total", "stop"] == 0
    assert values["generation_tokens_total", None] == values["request_generation_tokens_sum", None] == 24
    prompt = usage[0]["prompt_tokens"]
    assert values["prompt_tokens_total", None] == values["request_prompt_tokens_sum", None] == 4 * prompt
    for name in ("time_to_first_token", "e2e_request_latency", "request_queue_time", "request_prefill_time"):
        assert values[f"{name}_seconds_count", None] == 4
        assert values[f"{name}_seconds_bucket", "+Inf"] == 4
    whole, first = (values[f"{n}_seconds_sum", None] for n in ("e2e_request_latency", "time_to_first_token"))
    assert whole >= first > 0
    assert whole == pytest.approx(first + values["request_decode_time_seconds_sum", None])
    assert values["inter_token_latency_seconds_count", None] == 5  # of the stream's six tokens
    assert values["request_time_per_output_token_seconds_count", None] == 4


def test_guesses_are_counted(model, tokenizer, start):
    engine = Engine(model, tokenizer, stop_ids=(), speculate=Speculation())
    ask = {"prompt": [5, 6, 7] * 8, "max_tokens": 40, "temperature": 0}
    with start(engine) as url, httpx.Client(base_url=url) as http:
        assert http.post("/v1/completions", json=ask).status_code == 200
        values = {name: value for (name, _), value in read(http).items() if name.startswith("spec_decode")}
    drafts, drafted, accepted = (
        values[f"spec_decode_num_{name}_total"] for name in ("drafts", "draft_tokens", "accepted_tokens")
    )
    assert 0 < drafts <= drafted >= accepted
    assert (drafted, accepted) == (engine.stats().drafted, engine.stats().accepted)


def test_who_runs_who_waits_and_who_left(served):
    engine, http = served
    go, once, step = threading.Event(), threading.Event(), engine.step

    def one_step_then_wait():
        if once.is_set():
            assert go.wait(30)
        deltas = step()
        once.set()
        return deltas

    engine.step = one_step_then_wait
    with http.stream("POST", CHAT, json=ASK | {"stream": True, "n": 3}) as stream:
        lines = stream.iter_lines()  # kept: a dropped iterator closes the stream
        next(lines)
        assert once.wait(30)
        values = read(http)
        assert values["num_requests_running", None] == 2 and values["num_requests_waiting", None] == 1
        assert 0 < values["kv_cache_usage_perc", None] <= 1
    go.set()
    wait_for(lambda: engine.stats().running == engine.stats().waiting == 0)
    wait_for(lambda: sum(read(http)["request_success_total", reason] for reason in ("abort", "length")) == 3)


def test_repeated_prompts_are_found_in_the_cache(served):
    _, http = served
    ask = ASK | {"messages": [{"role": "user", "content": "The capital of France? " * 20}]}
    first, second = (http.post(CHAT, json=ask).json()["usage"] for _ in range(2))
    assert first["prompt_tokens_details"]["cached_tokens"] == 0
    found = second["prompt_tokens_details"]["cached_tokens"]
    assert 0 < found < second["prompt_tokens"]
    values = read(http)
    assert values["prefix_cache_hits_total", None] == found
    assert values["prefix_cache_queries_total", None] >= second["prompt_tokens"]


def test_histograms_count_up():
    histogram = Histogram((1.0, 2.0), [0, 0, 0])
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.observe(value)
    assert list(histogram.lines("h", 'm="x"')) == [
        'h_bucket{m="x",le="1.0"} 2',
        'h_bucket{m="x",le="2.0"} 3',
        'h_bucket{m="x",le="+Inf"} 4',
        'h_sum{m="x"} 12.0',
        'h_count{m="x"} 4',
    ]


def test_names_of_models_cannot_break_the_format(model, tokenizer):
    from modelwright.server.meters import Meters, exposition

    engine = Engine(model, tokenizer)
    text = exposition({'a"} 1\nfake 2\\': (engine.stats(), Meters())})
    assert "\nfake" not in text and 'model_name="a\\"} 1\\nfake 2\\\\"' in text
