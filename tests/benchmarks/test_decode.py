"""The benchmarks of decoding and serving at a toy size: every path runs, and the figures add up."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    """Models are made in a folder of the test's own, from little text."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        models = importlib.import_module("decode_models")
        folder = tmp_path_factory.mktemp("cache")
        patch.setattr(models, "cache_folder", lambda: folder)
        patch.setattr(models, "TEXT_BYTES", 100_000)
        yield


def load(name: str) -> ModuleType:
    return importlib.import_module(name)


@pytest.fixture(scope="module")
def tiny(own_cache):
    """The shape of every side here."""
    sizes = {
        "vocab_size": 512, "hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    }  # fmt: skip
    return load("decode_models").MEDIUM.model_copy(update=sizes)


SIDES = ["ours bf16", "ours INT8", "ours INT4", "transformers, eager"]
LLAMA_CPP = ["llama.cpp BF16", "llama.cpp Q4_0, flash attention"] if find_spec("llama_cpp") else []


@pytest.mark.parametrize("name", [*SIDES, *LLAMA_CPP])
def test_every_side_tells_the_phases_apart(tiny, monkeypatch, name):
    decode, peers = load("decode_cpu"), load("decode_peers")
    monkeypatch.setattr(peers, "repacked_kernels_work", lambda path: False)
    monkeypatch.setitem(decode.CONFIGS, "medium", tiny)
    monkeypatch.setattr(decode, "PREFILLS", (16, 24))
    monkeypatch.setattr(decode, "PROMPT", 12)
    monkeypatch.setattr(decode, "TOKENS", 5)
    one, many = decode.CASES["decode, one thread"], decode.CASES["32 at once"]
    for case in (one, replace(many, requests=3), decode.CASES["prefill, one thread"]):
        figures = decode.take_turn(case, decode.make_side(case, name), 0)
        wanted = {"prefill 16", "prefill 24"} if case.kind == "prefill" else {"decode", "whole"}
        assert set(figures) == wanted and min(figures.values()) > 0


@pytest.mark.parametrize("name", ["ours fp32", "transformers, eager"])
def test_rollouts_are_as_long_as_asked(tiny, monkeypatch, name):
    decode = load("decode_cpu")
    monkeypatch.setitem(decode.CONFIGS, "quickstart", tiny)
    case = replace(decode.CASES["rollouts"], requests=3)
    side = decode.make_side(case, name)
    assert side.rollouts([[5, 6], [7, 8, 9], [4]], [4, 9, 6]) > 0
    assert decode.take_turn(replace(case, requests=2), side, 0)["answers"] > 0


def test_rows_take_the_fastest_peer_and_shares_the_nearest_buffer():
    decode = load("decode_cpu")
    turns = {
        "ours bf16": [{"decode": 30.0}, {"decode": 33.0}],
        "transformers, eager": [{"decode": 10.0}, {"decode": 12.0}],
        "transformers, compiled": [{"decode": 15.0}, {"decode": 15.0}],
    }
    row = decode.judge("decode, one thread", turns, "decode", "ours bf16", "transformers", 1.5)
    assert (row.peer_name, row.ratio, row.bar) == ("transformers, compiled", 2.1, 1.5)
    assert decode.judge("decode, one thread", turns, "decode", "ours bf16", "llama.cpp", 1.0) is None
    reads = {"100": 4000.0, "1000": 2000.0}
    assert decode.share({"weights": 120.0, "decode": 10.0}, reads) == pytest.approx(0.3)


def test_cases_of_another_day_stay_in_the_result(tmp_path, monkeypatch):
    decode, record = load("decode_cpu"), load("record")
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(decode, "CASES", {"a": None, "b": None})

    def measured(value):
        def measure(title, key, case):
            return [record.compare(f"{title}: x", "tokens/s", [value], [1.0], "peer", None)], {"value": value}

        return measure

    monkeypatch.setattr(decode, "measure", measured(2.0))
    for processor in ("one", "other"):
        monkeypatch.setattr(record, "machine", lambda: {"processor": processor})  # noqa: B023
        decode.main(["a", "b"])
    monkeypatch.setattr(decode, "measure", measured(3.0))
    decode.main(["a"])
    found = json.loads((tmp_path / "decode_cpu.json").read_text())
    assert [(row["name"], row["ratio"]) for row in found["rows"]] == [
        ("a, one: x", 2.0),
        ("b, one: x", 2.0),
        ("a, other: x", 3.0),
        ("b, other: x", 2.0),
    ]
    assert found["cases"] == {
        "a, one": {"value": 2.0},
        "b, one": {"value": 2.0},
        "a, other": {"value": 3.0},
        "b, other": {"value": 2.0},
    }


def test_the_same_weights_are_in_every_file(tiny):
    if not find_spec("llama_cpp"):
        pytest.skip("llama-cpp-python is not installed")
    from modelwright.formats.huggingface import load_model
    from modelwright.formats.llama_cpp import LlamaCppReader

    models = load("decode_models")
    folder = models.model_folder(tiny)
    ids = torch.arange(40)[None]
    mine = load_model(folder)(ids).logits()[0].log_softmax(-1)
    reader = LlamaCppReader(models.gguf_file(folder, "BF16"))
    theirs = reader.logits(ids[0].tolist()).log_softmax(-1)
    reader.close()
    assert (mine - theirs).abs().max() < 0.05, "bf16 rounds what is multiplied"


def test_the_gpu_benchmark_runs_tiny(own_cache):
    decode = load("decode_gpu")
    lines = decode.run_tiny()
    assert [line["case"] for line in lines] == [
        f"{name}, {side}" for name in decode.CASES for side in ("ours", *decode.PEERS)
    ]
    assert all(line["decode"] > 0 and line["prefill"] > 0 for line in lines)
    assert lines[0]["bytes_per_second"] > 0 and lines[0]["share_of_bandwidth"] is None


def test_tokens_that_part_from_the_cpu_are_refused(own_cache, monkeypatch):
    decode = load("decode_gpu")
    monkeypatch.setattr(decode, "TOLERANCE", -1.0)
    with pytest.raises(SystemExit, match="nats less likely"):
        decode.tokens_agree("cpu")


def test_the_gpu_benchmark_needs_one_and_fails_alone(monkeypatch):
    decode = load("decode_gpu")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit, match="no NVIDIA GPU"):
        decode.main()
    told = {"prefill": [1.0], "decode": [30.0, 50.0, 40.0], "warm_up_seconds": 1.0}
    ours = {**told, "step_bytes": 10.0, "measured_bandwidth": 800.0, "parameters": 1, "peak_bytes": None}
    ours["runner"] = "GraphRunner"

    def answer(command, label, seconds, *, least, most):
        if label == "batch 256, transformers":
            return {"failed": "status 1: no"}
        return ours if label.endswith("ours") else told

    monkeypatch.setattr(decode, "answer_in_time", answer)
    monkeypatch.setattr(decode, "model_folder", lambda config: None)
    found = decode.measure_all(1000.0)
    one = next(line for line in found["cases"] if line["case"] == "batch 1, ours")
    assert one["runner"] == "GraphRunner"
    assert one["share_of_bandwidth"] == pytest.approx(0.4) and one["share_of_measured"] == pytest.approx(0.5)
    assert [row.peer_name for row in found["rows"]] == ["transformers", "transformers, compiled"]
    assert {line["case"] for line in found["cases"] if "failed" in line} == {"batch 256, transformers"}


@pytest.mark.slow  # it starts a server in a process of its own
def test_clients_read_what_the_server_streams(tiny, monkeypatch):
    serving, models = load("serve_cpu"), load("decode_models")
    folder, port = models.model_folder(tiny), serving.free_port()
    monkeypatch.setattr(serving, "TOKENS", 6)
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, str(FOLDER / "serve_cpu.py"), "--serve", str(folder), str(port)]
    with serving.running(command, address):
        seconds, answers = serving.asyncio.run(serving.ask_together(address, ["def f(", "import os\n", "x"]))
    assert [1 <= answer.tokens <= 6 and answer.prompt_tokens >= 1 for answer in answers] == [True] * 3
    assert all(0 < answer.first <= answer.last <= seconds for answer in answers)
    told = serving.figures(seconds, answers)
    assert told["tokens/s"] == pytest.approx(sum(answer.tokens for answer in answers) / seconds)
    assert told["first token, p95"] == max(answer.first for answer in answers)


def test_a_server_that_does_not_start_is_reported(monkeypatch):
    serving = load("serve_cpu")
    with (
        pytest.raises(SystemExit, match="does not serve"),
        serving.running([sys.executable, "-c", "0"], f"http://127.0.0.1:{serving.free_port()}"),
    ):
        pass


def test_rows_of_serving():
    serving = load("serve_cpu")
    times = ("first token, median", "first token, p95", "token, median", "token, p95")
    found = {
        serving.OURS: [{"tokens/s": 30.0, **dict.fromkeys(times, 0.1)}],
        serving.TRANSFORMERS: [{"tokens/s": 20.0}],
        serving.LLAMA_CPP: [{"tokens/s": 40.0, **dict.fromkeys(times, 0.2)}],
    }
    rows = serving.judge(found)
    assert [row.ratio for row in rows] == pytest.approx([1.5, 0.75, 2.0, 2.0, 2.0, 2.0])
    assert len({*serving.prompts_of(0, 3), *serving.prompts_of(1, 3)}) == 6
