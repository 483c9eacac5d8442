"""The GPU benchmark where there is no GPU: every path at a toy size, and figures that add up."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module("train_gpu")
    finally:
        sys.path.remove(str(FOLDER))


def test_it_runs_tiny(benchmark):
    found = benchmark.run_tiny()
    assert [row["case"] for row in found] == [*benchmark.CASES, benchmark.PEER]
    assert all(row["tokens_per_second"] > 0 and row["mfu"] is None for row in found)
    assert all(row["compiled"] is False for row in found)
    packed = next(row for row in found if row["case"].startswith("SFT"))
    assert packed["mean_context"] < packed["context"] and packed["supervised"] < 0.7


def test_losses_that_part_are_refused(benchmark, monkeypatch):
    honest = benchmark.run_ours

    def off(case, compute, steps):
        found = honest(case, compute, steps)
        return (
            found if compute.dtype == "float32" else {**found, "losses": [0.9 * x for x in found["losses"]]}
        )

    monkeypatch.setattr(benchmark, "run_ours", off)
    with pytest.raises(SystemExit, match="bfloat16 on cpu: losses"):
        benchmark.losses_agree("cpu")


@pytest.mark.parametrize("wrong", ["losses", "error", None])
def test_what_is_wrong_in_8_bits_is_said_of_them_alone(benchmark, monkeypatch, wrong):
    """A stand-in for a GPU: one case of five is trained in 8 bits."""
    asked = []

    def stand_in(case, compute, steps):
        asked.append((compute.device, compute.dtype, case.fp8, compute.compile))
        if case.fp8 and wrong == "error":
            raise RuntimeError("no kernel")
        return {"losses": [0.5, 1.0] if case.fp8 and wrong else [1.0, 1.0]}

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(benchmark, "run_ours", stand_in)
    found = benchmark.losses_agree("cuda")
    assert asked == [
        ("cpu", "float32", False, "never"),
        ("cuda", "float32", False, "always"),
        ("cuda", "bfloat16", False, "always"),
        ("cuda", "bfloat16", True, "always"),
    ]
    assert found["bfloat16"]["largest_difference"] == 0
    said = {"losses": "SystemExit: fp8 on cuda: losses", "error": "RuntimeError: no kernel"}
    assert found["fp8"].get("failed", "").startswith(said[wrong]) if wrong else "failed" not in found["fp8"]
    answers = {"check": found}
    failing = {"failed": "status 1"}
    monkeypatch.setattr(benchmark, "in_process", lambda name, *rest: answers.get(name, failing))
    lines = benchmark.measure_all(1.0)["cases"]
    marked = [line["case"] for line in lines if "proves_nothing" in line]
    assert marked == (["1B, fp8"] if wrong else [])


def test_the_shapes_are_the_ones_that_are_named(benchmark):
    def millions(name: str) -> float:
        with torch.device("meta"):
            return benchmark.Transformer(benchmark.CASES[name].shape).num_parameters() / 1e6

    assert millions("GPT-2 small") == pytest.approx(124, abs=1)
    assert millions("1B") == pytest.approx(1000, rel=0.02)
    assert millions("SFT 0.6B, 16k") == pytest.approx(596, abs=1)


def test_mfu_and_peaks(benchmark):
    assert benchmark.peak_of("NVIDIA H200") == 989e12
    assert benchmark.peak_of("NVIDIA H100 80GB HBM3") == 989e12
    assert benchmark.peak_of("NVIDIA H100 PCIe") == 756e12
    assert benchmark.peak_of("NVIDIA A100-SXM4-80GB") == 312e12
    assert benchmark.peak_of("Voodoo 2") is None
    measured = {
        "parameters": 1, "tokens_per_second": [1.0, 3.0, 2.0], "flops_per_token": 10.0,
        "peak_bytes": 2**31, "warm_up_seconds": 1.0,
    }  # fmt: skip
    row = benchmark.summary(benchmark.CASES["1B"], measured, 40.0)
    assert row["mfu"] == 0.5 and row["peak_gib"] == 2.0 and row["spread"] == [1.0, 3.0]


def test_skipped_arithmetic_is_not_claimed(benchmark):
    """Documents of 200 to 2,000 tokens in rows of 16k, half of the tokens supervised."""
    case = benchmark.CASES["SFT 0.6B, 16k"]
    mean = benchmark.mean_token(benchmark.batches_of(case, 2).__getitem__, 2 * case.accumulation)
    assert 1000 < mean.context() < 1800 and 0.4 < mean.supervised < 0.55
    heads, head, layers = 16 * 128, 1024 * 151_936, 28
    matrices = layers * (1024 * (2 * 16 * 128 + 2 * 8 * 128) + 3 * 1024 * 3072)
    by_hand = 6 * (matrices + mean.supervised * head) + 12 * layers * heads * mean.context()
    assert mean.training_flops(case.shape) == pytest.approx(by_hand) and 3.8e9 < by_hand < 4.3e9
    windows = benchmark.batches_of(benchmark.CASES["1B"], 1)
    assert benchmark.mean_token(windows.__getitem__, 1).context() == 2048


def test_bars_stand_beside_what_was_measured(benchmark):
    measured = {
        "parameters": 1, "tokens_per_second": [1.0], "flops_per_token": 1.0, "peak_bytes": None,
        "warm_up_seconds": 1.0,
    }  # fmt: skip
    rows = {name: benchmark.summary(case, measured, 1.0) for name, case in benchmark.CASES.items()}
    bars = {name: (row["bar_mfu"], row["bar_tokens_per_second"]) for name, row in rows.items()}
    assert bars["GPT-2 small"] == (0.48, 600e3)
    assert bars["1B"] == (0.50, None) and bars["SFT 0.6B, 16k"] == (0.45, None)


def test_what_does_not_fit_is_tried_in_less_memory(benchmark, monkeypatch):
    tried = []

    def hungry(case, compute, steps):
        tried.append((case.rows, case.accumulation, case.checkpointing))
        if case.checkpointing != "full":
            raise torch.OutOfMemoryError("too much")
        return {"losses": []}

    monkeypatch.setattr(benchmark, "run_ours", hungry)
    case = benchmark.CASES["SFT 0.6B, 8k"]
    found = benchmark.run_in_memory(case, benchmark.ComputeConfig())
    assert tried == [(2, 4, "none"), (1, 8, "none"), (1, 8, "selective"), (1, 8, "full")]
    assert found["how"] == "8 x 1 rows of 8192, full activation checkpointing"
    assert len({way.step_tokens for way in benchmark.ways(case)}) == 1, "the same steps"


NO_ROOM = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 6.14 GiB"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]


@pytest.mark.parametrize("error", NO_ROOM)
def test_the_peer_is_given_fewer_rows_too(benchmark, monkeypatch, error):
    """All its logits at once are what a GPU of 24 GB has no room for."""
    tried = []

    def hungry(case, compute, steps):
        tried.append((case.rows, case.accumulation, case.checkpointing))
        if case.rows > 8:
            raise error
        return {"losses": []}

    monkeypatch.setattr(benchmark, "run_peer", hungry)
    case = benchmark.CASES["GPT-2 small"]
    assert benchmark.peer_in_memory(case, benchmark.ComputeConfig())["how"] == "64 x 8 rows of 1024"
    assert tried == [(32, 16, "none"), (16, 32, "none"), (8, 64, "none")]
    monkeypatch.setattr(benchmark, "run_peer", lambda *rest: (_ for _ in ()).throw(error))
    with pytest.raises(SystemExit, match="does not fit"):
        benchmark.peer_in_memory(case, benchmark.ComputeConfig())


def test_other_errors_are_not_taken_for_a_lack_of_memory(benchmark, monkeypatch):
    def wrong(case, compute, steps):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(benchmark, "run_ours", wrong)
    with pytest.raises(RuntimeError, match="illegal"):
        benchmark.run_in_memory(benchmark.CASES["1B"], benchmark.ComputeConfig())


def test_eager_figures_are_not_published_as_compiled_ones(benchmark, monkeypatch, capsys):
    monkeypatch.setattr(benchmark.published_as.__globals__["sys"], "stderr", sys.stdout)
    monkeypatch.setitem(benchmark.published_as.__globals__, "missing_for_gpu", lambda: "")
    assert benchmark.published_as("train_gpu") == "train_gpu" and not capsys.readouterr().out
    monkeypatch.setitem(
        benchmark.published_as.__globals__, "missing_for_gpu", lambda: "python's headers (python3-dev)"
    )
    assert benchmark.published_as("train_gpu") == "train_gpu_eager"
    said = capsys.readouterr().out
    assert "!!!!" in said and "python3-dev" in said and "train_gpu_eager" in said


def test_a_case_says_whether_it_was_compiled(benchmark, monkeypatch):
    """Asked for, and yet eager where there is no compiler."""
    case = benchmark.tiny(benchmark.CASES["GPT-2 small"])
    compute = benchmark.ComputeConfig(device="cpu", dtype="float32", compile="always")
    honest = benchmark.resolve

    def lacking(compute):
        return benchmark.replace(honest(compute), compiler=False, missing="a C++ compiler")

    monkeypatch.setattr(benchmark, "resolve", lacking)
    assert benchmark.run_ours(case, compute, 2)["compiled"] is False
    monkeypatch.setattr(benchmark, "resolve", lambda c: benchmark.replace(honest(c), compiler=True))
    monkeypatch.setattr(benchmark, "make_fast", lambda *rest, **named: None)
    assert benchmark.run_ours(case, compute, 2)["compiled"] is True
    never = compute.model_copy(update={"compile": "never"})
    assert benchmark.run_ours(case, never, 2)["compiled"] is False


@pytest.mark.parametrize("kind", ["selective", "full"])
def test_activation_checkpointing_changes_no_loss(benchmark, kind):
    case = benchmark.tiny(benchmark.CASES["SFT 0.6B, 16k"])
    compute = benchmark.ComputeConfig(device="cpu", dtype="float32", compile="never")
    plain = benchmark.run_ours(case, compute, 3)["losses"]
    again = benchmark.run_ours(benchmark.replace(case, checkpointing=kind), compute, 3)["losses"]
    assert again == pytest.approx(plain, rel=1e-5)


def test_a_training_is_timed_and_not_saved(benchmark, tmp_path):
    case = benchmark.tiny(benchmark.CASES["GPT-2 small"])
    compute = benchmark.ComputeConfig(device="cpu", dtype="float32", compile="never")
    run, _ = benchmark.train_ours(case, compute, 3, tmp_path)
    assert [line["step"] for line in benchmark.read_metrics(run.dir / "metrics.jsonl")] == [1, 2, 3]
    assert not list(tmp_path.rglob("*.safetensors"))


def test_what_fails_fails_alone(benchmark, monkeypatch):
    """Without a GPU every case ends with an error of its own, and the list is whole."""
    found = benchmark.in_process("1B", False, 500.0)
    assert found["failed"].startswith("status 1: ") and "GPU" in found["failed"]
    assert "nearly over" in benchmark.in_process("1B", False, 10.0)["failed"]
    measured = {
        "parameters": 1, "tokens_per_second": [1.0, 2.0], "flops_per_token": 1.0, "peak_bytes": 1,
        "warm_up_seconds": 1.0,
    }  # fmt: skip
    asked = []

    def some(name, peer, seconds):
        asked.append((name, peer))
        return {"failed": "status 1: no"} if name.startswith("SFT") else measured

    monkeypatch.setattr(benchmark, "in_process", some)
    found = benchmark.measure_all(40.0)
    failed = {line["case"] for line in found["cases"] if "failed" in line}
    assert failed == {"SFT 0.6B, 16k", "SFT 0.6B, 8k"} and len(found["cases"]) == len(benchmark.CASES) + 1
    assert asked[:4] == [("check", False), ("GPT-2 small", False), ("1B", False), ("SFT 0.6B, 16k", False)]
    assert found["rows"][0].ratio == 1 and found["rows"][0].rounds == 4


def test_the_check_has_a_limit_of_its_own(benchmark, monkeypatch):
    asked = {}

    def answer(command, label, seconds, *, least, most):
        asked[label] = most
        return {}

    monkeypatch.setattr(benchmark, "answer_in_time", answer)
    for name in (benchmark.CHECK, "1B"):
        benchmark.in_process(name, False, benchmark.LIMIT)
    assert asked == {"check": benchmark.LONGEST_CHECK, "1B": benchmark.LONGEST}
    assert benchmark.LONGEST_CHECK + benchmark.LONGEST < benchmark.LIMIT < 480, "the first case has its time"


def test_where_nothing_was_shown_the_end_says_what_to_do(benchmark, monkeypatch):
    published = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(benchmark, "published_as", lambda name: f"{name}_eager")
    monkeypatch.setattr(benchmark, "publish", lambda name, *rest: published.append(name))
    found = {"checks": {"failed": "ended after 260 s"}, "rows": []}
    monkeypatch.setattr(benchmark, "measure_all", lambda peak: dict(found))
    with pytest.raises(SystemExit, match=r"ended after 260 s.*--case check.*run the benchmark once more"):
        benchmark.main()
    found["checks"] = {}
    benchmark.main()
    assert published == ["train_gpu_eager"] * 2


def test_a_process_that_hangs_is_ended(benchmark, monkeypatch):
    monkeypatch.setattr(benchmark.sys, "executable", "sleep")
    monkeypatch.setattr(benchmark, "__file__", "20")
    monkeypatch.setattr(benchmark, "LONGEST", 0.2)
    monkeypatch.setattr(benchmark, "RESERVE", 0.0)
    command = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda c, **k: command(c[:2], **k))
    assert benchmark.in_process("1B", False, 100.0) == {"failed": "ended after 0 s"}
